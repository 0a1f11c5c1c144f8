// What an operator may do, each with its question. A viewer's page has none of these.

import { size } from "./format.js";
import { asked } from "./words.js";
import { cardName } from "./views/cards.js";

/** The questions of the page; `confirm` asks them, `api` carries them out. */
export class Actions {
  constructor(api, confirm, ledger) {
    this.api = api;
    this.confirm = confirm;
    this.ledger = ledger;
  }

  post(path, key, body) {
    return this.api.change("POST", path, body, key);
  }

  drainCard(card) {
    const drained = String(card.drained_by ?? "").split(",").includes("gpu");
    this.drain(`card ${card.index} of ${card.host}`, `api/gpus/${encodeURIComponent(card.uuid)}`, drained, `${card.name}, ${card.uuid}`);
  }

  drainHost(host, drained) {
    this.drain(`host ${host}`, `api/hosts/${encodeURIComponent(host)}`, drained, "All its cards, also those that are still to come.");
  }

  drain(what, path, drained, which) {
    const verb = drained ? "Undrain" : "Drain";
    const means = drained ? "Leases are granted on it again." : "Nothing more is granted on it. Running leases stay until they end.";
    this.confirm.ask({
      title: `${verb} ${what}?`, words: [which, means], verb, danger: !drained,
      run: (_, key) => this.post(`${path}/${verb.toLowerCase()}`, key), done: `${verb}ed ${what}.`,
    });
  }

  retire(host) {
    this.confirm.ask({
      title: `Retire host ${host}?`, verb: "Retire", danger: true,
      words: "The pool forgets the host, whose agent is gone for good. Its cards go with their last leases.",
      run: (_, key) => this.post(`api/hosts/${encodeURIComponent(host)}/retire`, key), done: `Retired host ${host}.`,
    });
  }

  revoke(lease) {
    this.confirm.ask({
      title: `Revoke lease ${lease.id}?`, verb: "Revoke", danger: true,
      words: [
        `${asked(lease)} on ${String(lease.gpu_uuids).split(",").map((uuid) => cardName(this.ledger, uuid)).join(", ")}, held by ${lease.owner}${lease.job_id ? ` for job ${lease.job_id}` : ""}; ${size(lease.used_bytes)} in use.`,
        "Its holder hears it within five seconds and has the grace to end; then the lease is over.",
      ],
      fields: [
        { name: "grace", label: "Grace, in seconds", type: "number", value: "10", min: "0", max: "86400", step: "any", required: true },
        { name: "reason", label: "Reason", type: "text", value: "revoked", maxlength: "128", hint: "Its holder and the journal are told." },
      ],
      run: ({ grace, reason }, key) => this.post(`api/leases/${encodeURIComponent(lease.id)}/revoke`, key, { grace: Number(grace), reason: reason || "revoked" }),
      done: `Revoked lease ${lease.id}.`,
    });
  }

  cancel(waiter) {
    this.confirm.ask({
      title: `Cancel the request ${waiter.id}?`, verb: "Cancel request", danger: true,
      words: `It waits for ${waiter.owner}, and is told that it was taken back.`,
      run: (_, key) => this.api.change("DELETE", `api/waiters/${encodeURIComponent(waiter.id)}`, undefined, key),
      done: `Cancelled the request ${waiter.id}.`,
    });
  }

  /** `changes`: {name: [old, new]}; new is null where the default comes back. */
  configure(changes, gpu, done) {
    const shown = (value) => (value === null || value === "" ? "none" : String(value));
    const lines = Object.entries(changes).map(([name, [old, value]]) => `${name}: ${shown(old)} → ${value === null ? "the default" : shown(value)}`);
    this.confirm.ask({
      title: gpu ? `Change settings of ${cardName(this.ledger, gpu)}?` : "Change the pool's settings?", verb: "Change", words: [...lines, "Agents pick it up within one interval."],
      run: (_, key) => this.api.change("PUT", `api/gpu/config${gpu ? `?gpu=${encodeURIComponent(gpu)}` : ""}`, Object.fromEntries(Object.entries(changes).map(([name, [, value]]) => [name, value])), key),
      done: (answer) => (done(answer), `Changed ${Object.keys(changes).join(", ")}.`),
    });
  }

  monitoring(start) {
    this.confirm.ask({
      title: start ? "Start monitoring?" : "Stop monitoring?", verb: start ? "Start" : "Stop", danger: !start,
      words: start ? "Agents read their cards again." : "Agents read no hardware until it is started again: every card is UNAVAILABLE and nothing is lent.",
      run: (_, key) => this.post(`api/gpu/monitoring/${start ? "start" : "stop"}`, key), done: start ? "Monitoring started." : "Monitoring stopped.",
    });
  }
}
