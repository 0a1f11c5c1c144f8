// Server-sent events over fetch: EventSource cannot send the header that carries the token.

/** Takes the text of a stream in pieces of any size and calls back with {id, event, data} for each event. */
export class Parser {
  constructor(onEvent) {
    this.onEvent = onEvent;
    this.rest = "";
    this.lastId = "";
    this.retryMs = null;
    this.begin();
  }

  begin() {
    this.event = "";
    this.data = [];
  }

  feed(piece) {
    const text = this.rest + piece;
    // A carriage return at the end may be half of a line's end: it waits for what follows.
    const whole = text.endsWith("\r") ? text.length - 1 : text.length;
    let from = 0;
    for (let at = 0; at < whole; at++) {
      const letter = text.charCodeAt(at);
      if (letter !== 10 && letter !== 13) continue;
      this.line(text.slice(from, at));
      if (letter === 13 && text.charCodeAt(at + 1) === 10) at++;
      from = at + 1;
    }
    this.rest = text.slice(from);
  }

  line(line) {
    if (line === "") return this.dispatch();
    if (line.startsWith(":")) return;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  dispatch() {
    if (this.data.length) this.onEvent({ id: this.lastId, event: this.event || "message", data: this.data.join("\n") });
    this.begin();
  }
}

/** Without a byte for so long (three heartbeats) a connection counts as lost, whatever the network says. */
const SILENCE_MS = 45_000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 10_000;

/**
 * A stream that comes back by itself, from where it was. `on.event` gets each event, `on.word` what to tell people:
 * {word: "connecting" | "live" | "lost" | "refused", retryAt, detail}.
 */
export class Stream {
  constructor(api, path, on) {
    this.api = api;
    this.path = path;
    this.on = on;
    this.lastId = "";
    this.failures = 0;
    this.run = 0;
    this.heardAt = 0;
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => this.look(), 5000);
  }

  start() {
    this.stop();
    this.connect(++this.run);
  }

  stop() {
    this.run++;
    clearTimeout(this.timer);
    this.abort?.abort();
  }

  /** Try now instead of when it is due. */
  hurry() {
    if (this.waiting) this.start();
  }

  look() {
    const silent = this.open && performance.now() - this.heardAt > SILENCE_MS;
    if (silent && !document.hidden) this.abort.abort(new Error("the server is silent"));
  }

  async connect(run) {
    this.waiting = false;
    this.abort = new AbortController();
    this.on.word({ word: "connecting" });
    let detail = "the server closed the stream";
    try {
      const headers = this.lastId ? { "Last-Event-ID": this.lastId } : {};
      const answer = await this.api.open(this.path, { headers, signal: this.abort.signal });
      if (run === this.run) await this.read(answer.body, run);
    } catch (error) {
      detail = error.message || String(error);
      if (run === this.run && (error.status === 401 || error.status === 403)) {
        this.on.word({ word: "refused", detail });
        return;
      }
    }
    if (run === this.run) this.again(detail, run);
  }

  async read(body, run) {
    this.heard();
    const parser = new Parser((event) => {
      if (event.id) this.lastId = event.id;
      try {
        this.on.event(event);
      } catch (error) {
        reportError(error); // a fault of the page's own is no fault of the connection
      }
    });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    this.open = true;
    try {
      for (let part = await reader.read(); !part.done && run === this.run; part = await reader.read()) {
        this.heard();
        parser.feed(part.value);
        if (this.failures || this.word !== "live") {
          this.failures = 0;
          this.word = "live";
          this.on.word({ word: "live" });
        }
      }
    } finally {
      this.open = false;
      this.word = "";
      reader.cancel().catch(() => {});
    }
  }

  heard() {
    this.heardAt = performance.now();
  }

  again(detail, run) {
    const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.failures++) * (0.75 + Math.random() / 2);
    this.waiting = true;
    this.on.word({ word: "lost", detail, retryAt: performance.now() + wait });
    this.timer = setTimeout(() => run === this.run && this.connect(run), wait);
  }
}
