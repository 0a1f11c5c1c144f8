// Requests to the server beside the page. The token lives in this tab's session and nowhere else.

const TOKEN = "gpubroker.token";

/** What the server answered instead of what was asked for: the words of its problem+json. */
export class Problem extends Error {
  constructor(status, said) {
    super(said.detail || said.title || `the server answered ${status}`);
    this.status = status;
    this.code = said.code;
    this.field = said.field;
    this.allowed = said.allowed;
  }
}

/** The server, as whoever this tab is logged in as. */
export class Api {
  constructor() {
    this.token = sessionStorage.getItem(TOKEN) || "";
    this.onRefused = () => {};
  }

  logIn(token) {
    this.token = token;
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  }

  /** The open answer; raises a Problem for one that is not good. */
  async open(path, options = {}) {
    const headers = { ...options.headers };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    // Beside the page's own address: the page works under any path that a proxy gives it.
    const answer = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
    if (answer.ok) return answer;
    const problem = new Problem(answer.status, await said(answer));
    if (answer.status === 401) this.onRefused(problem);
    throw problem;
  }

  async get(path, query = {}) {
    const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value != null));
    return (await this.open(asked.size ? `${path}?${asked}` : path)).json();
  }

  /** One change. The key makes a retry of the same change harmless: it is carried out once. */
  async change(method, path, body, key) {
    const headers = { "Idempotency-Key": key };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await this.open(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    return answer.status === 204 ? null : answer.json();
  }
}

/** A new key for a change; works on plain http too, where `crypto.randomUUID` is not offered. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function said(answer) {
  try {
    const told = await answer.json();
    return told && typeof told === "object" ? told : {};
  } catch {
    return {};
  }
}
