// Numbers as people read them: as `gpubroker status` writes them, so that page and terminal can be compared.

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** "5.5 GiB", "512 MiB", or "–" for what is not known: unknown is never 0. */
export function size(bytes) {
  if (!known(bytes)) return "–";
  return Math.abs(bytes) >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${(bytes / MIB).toFixed(0)} MiB`;
}

/** The number alone, in GiB, for places where the unit stands beside. */
export function gib(bytes) {
  return known(bytes) ? (bytes / GIB).toFixed(1) : "–";
}

/** "12 s", "5 min", "3.2 h"; "over" for a time that has passed. */
export function duration(milliseconds) {
  if (!known(milliseconds)) return "–";
  const seconds = milliseconds / 1000;
  if (seconds < 0) return "over";
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** "1 card", "3 cards". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** The time of day here, with the date if it is another day than `now`. */
export function clock(milliseconds, now) {
  const at = new Date(milliseconds);
  if (Number.isNaN(at.getTime())) return "–";
  const day = at.toDateString() === new Date(now).toDateString() ? "" : `${pad(at.getDate())}.${pad(at.getMonth() + 1)}. `;
  return `${day}${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** The time for machines, or null where it is none. */
export function iso(milliseconds) {
  const at = new Date(milliseconds);
  return Number.isNaN(at.getTime()) ? null : at.toISOString();
}

/** Whether there is a number at all. */
export function known(value) {
  return value !== null && value !== undefined && value !== "" && Number.isFinite(Number(value));
}

/** A number of a hash that tells numbers as text, or null. */
export function number(value) {
  return known(value) ? Number(value) : null;
}

/** The number, or "–". */
export function plain(value, unit = "") {
  return known(value) ? `${value}${unit}` : "–";
}

function pad(value) {
  return String(value).padStart(2, "0");
}
