// What the journal says from before this page was opened, or from while it was away.

import { Parser } from "./sse.js";

/** How far back a page that was just opened looks, and again where that is too much to read. */
const BACK_MS = [600_000, 60_000, 5_000];
const MOST = 1000;
const PAGES_MOST = 20;
const QUIET_MS = 700;

/** The events after the last that is known, else of the last minutes; with a word `gap` where the journal was cut. */
export async function earlier(api, lastId, now) {
  if (lastId) return since(api, lastId);
  for (const back of BACK_MS) {
    const { events, whole } = await read(api, `${Math.floor(now - back)}-0`);
    if (whole) return events.filter((event) => event.kind !== "gap");
  }
  return [];
}

/** Everything after that event, a page at a time; where it is too much, a word that the rest is missing. */
async function since(api, lastId) {
  const all = [];
  let after = lastId;
  for (let page = 0; page < PAGES_MOST; page++) {
    const { events, whole } = await read(api, after);
    all.push(...events);
    if (whole) return all;
    after = events.findLast((event) => event.stream_id).stream_id;
  }
  return [...all, { kind: "gap", after, missed: null }];
}

/** The stream from there on, until it falls silent: it then waits for what is to come, which is told elsewhere. */
async function read(api, after) {
  const events = [];
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), 10 * QUIET_MS);
  const parser = new Parser(({ event, data }) => events.push(event === "gap" ? { kind: "gap", ...JSON.parse(data) } : JSON.parse(data)));
  try {
    const answer = await api.open(`api/events?after=${after}`, { signal: stop.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done && events.length < MOST; part = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), QUIET_MS);
      parser.feed(part.value);
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
  return { events, whole: events.length < MOST };
}
