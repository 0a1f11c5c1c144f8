// The last of the journal that is about one thing.

import { plainTable } from "../facts.js";
import { clock } from "../format.js";
import { eventWords } from "../words.js";
import { cardName } from "./cards.js";

const MOST = 20;

export function happened(app, about) {
  const table = plainTable("What happened", ["Time", "Kind", "What"], "Nothing since this page was opened.");
  return {
    element: table.element,
    update() {
      const found = [];
      for (let at = app.ledger.journal.length - 1; at >= 0 && found.length < MOST; at--) {
        const event = app.ledger.journal[at];
        if (event.fields && about(event)) found.push(event);
      }
      table.fill(found.map((event) => [clock(event.at, app.ledger.now()), event.kind, eventWords(event, (uuid) => cardName(app.ledger, uuid)).map(([name, value]) => `${name} ${value}`).join(" · ")]));
    },
  };
}
