// What the page knows of the pool: a snapshot, and what changed since.

const JOURNAL_MOST = 2000;
const NOUNS = { gpus: "uuid", hosts: "host", leases: "id", waiters: "id" };

/** The pool as last told. `onChange` hears which keys of each noun changed, or "all" where all may have. */
export class Ledger {
  constructor(onChange) {
    this.onChange = onChange;
    this.pool = "";
    this.known = false;
    this.gpus = new Map();
    this.hosts = new Map();
    this.leases = new Map();
    this.waiters = new Map();
    this.journal = [];
    this.limits = new Map();
    this.setClock(Date.now());
  }

  /** The ledger's time now, by the last that was heard of it. */
  now() {
    return this.told + (performance.now() - this.toldAt);
  }

  setClock(now) {
    this.told = now;
    this.toldAt = performance.now();
  }

  take(event) {
    const data = JSON.parse(event.data);
    if (event.event === "snapshot") this.snapshot(data);
    else if (event.event === "delta") this.delta(data);
    else if (event.event === "journal") this.note(data);
    else if (event.event === "gap") this.gap(data);
  }

  snapshot(data) {
    this.pool = data.pool;
    this.known = true;
    this.setClock(data.now);
    for (const [noun, key] of Object.entries(NOUNS)) {
      const listed = Array.isArray(data[noun]) ? data[noun] : Object.values(data[noun] ?? {});
      this[noun] = new Map(listed.map((record) => [record[key], record]));
    }
    this.toldJournal = Array.isArray(data.journal);
    for (const event of data.journal ?? []) this.add(event);
    if (data.config) this.setConfig(data.config);
    this.onChange({ gpus: "all", hosts: "all", leases: "all", waiters: "all", journal: "all" });
  }

  delta(data) {
    this.setClock(data.now);
    const changed = {};
    for (const noun of Object.keys(NOUNS)) {
      changed[noun] = new Set([...this.merge(noun, data[noun] ?? {}), ...this.drop(noun, data.gone?.[noun] ?? [])]);
    }
    if (data.config) {
      this.setConfig(data.config);
      changed.gpus = "all";
    }
    this.onChange(changed);
  }

  merge(noun, records) {
    for (const [key, fields] of Object.entries(records)) {
      // A new object each time: who kept the last one can tell that it changed.
      this[noun].set(key, { [NOUNS[noun]]: key, ...this[noun].get(key), ...fields });
    }
    return Object.keys(records);
  }

  drop(noun, keys) {
    for (const key of keys) this[noun].delete(key);
    return keys;
  }

  note(event) {
    if (this.add(event)) this.onChange({ journal: "all" });
  }

  /** Take what the journal said before, or meanwhile. */
  noteAll(events) {
    for (const event of events) {
      if (event.kind === "gap" && !event.fields) this.gap(event);
      else this.add(event);
    }
    this.onChange({ journal: "all" });
  }

  /** Keep an event in its place, unless it was told before: after a reconnect the last ones may come again. */
  add(event) {
    let at = this.journal.length;
    while (at > 0 && later(this.journal[at - 1], event)) at--;
    if (this.journal[at - 1]?.stream_id === event.stream_id) return false;
    this.journal.splice(at, 0, event);
    if (this.journal.length > JOURNAL_MOST) this.journal.splice(0, this.journal.length - JOURNAL_MOST);
    return true;
  }

  gap(data) {
    const after = data.after ?? this.lastEventId();
    this.note({ stream_id: `${after}-gap`, seq: null, kind: "gap", at: this.now(), fields: { missed: String(data.missed ?? "unknown"), after: String(after) } });
  }

  /** Up to where the journal is known; "" at first. */
  lastEventId() {
    return this.journal.findLast((event) => event.seq !== null)?.stream_id ?? "";
  }

  // -- the configuration, as far as rows are drawn by it --------------------------------------------------------------

  setConfig({ pool, gpus }) {
    this.config = pool;
    this.limits = new Map(Object.entries(gpus ?? {}));
  }

  /** Whether the configuration has to be read: at the beginning, and when the journal says that it changed. */
  changesConfig(event) {
    return (event.event === "snapshot" && !this.config) || (event.event === "journal" && this.journal.at(-1)?.kind === "config");
  }

  /** What holds for one card. */
  configOf(uuid) {
    return { ...this.config, ...this.limits.get(uuid) };
  }

  leasesOn(uuid) {
    return [...this.leases.values()].filter((lease) => uuids(lease).includes(uuid));
  }

  /** The rows of the list of cards that stand for hosts. */
  groupKeys() {
    return new Set([...this.gpus.values()].map((card) => `group ${card.host}`));
  }

  cardsOf(host) {
    return [...this.gpus.values()].filter((card) => card.host === host);
  }
}

/** Whether one event stands behind another in the journal: ids are milliseconds and a number. */
function later(one, other) {
  const [a, b] = [one, other].map((event) => String(event.stream_id).split("-").map(Number));
  return a[0] - b[0] > 0 || (a[0] === b[0] && a[1] > b[1]);
}

/** The cards of a lease. */
export function uuids(lease) {
  return String(lease.gpu_uuids ?? "").split(",").filter(Boolean);
}
