// The address says what is looked at: #/cards?show=CRITICAL, #/card/UUID. Links, back and bookmarks work by that.

/** Calls back with {view, id, params} now and whenever the address changes. */
export class Router {
  constructor(onRoute) {
    this.onRoute = onRoute;
    addEventListener("hashchange", () => this.go());
  }

  go() {
    if (location.hash && !location.hash.startsWith("#/")) return; // a jump within the page
    this.onRoute(route(location.hash));
  }

  /** Note a view's search and filter in the address, without a step in the history. */
  params(view, params) {
    const query = new URLSearchParams(params);
    history.replaceState(null, "", `#/${view}${query.size ? `?${query}` : ""}`);
  }
}

export function route(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/");
  return { view: view || "cards", id: decode(rest.join("/")), params: Object.fromEntries(new URLSearchParams(query)) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
