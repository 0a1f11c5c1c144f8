// The history of a card, drawn by uPlot, which is loaded when the first card is looked at.

import { el, text } from "./dom.js";
import { clock, gib, known } from "./format.js";

const GIB = 2 ** 30;
const LINES = [["temp_normal", "--look"], ["temp_throttle", "--bad"]];

/** Three plots of one card, that go on with its samples: temperature, memory in use, load. `limits()` and `total()` tell what holds now. */
export class Plots {
  constructor(limits, total) {
    this.limits = limits;
    this.total = total;
    this.samples = [];
    this.plots = [];
    this.figures = {
      temperature: figure("Temperature", "°C", 210), memory: figure("Memory", "GiB"), load: figure("Load", "%"),
    };
    this.element = el("div", { class: "plots" }, ...Object.values(this.figures).map((one) => one.element));
    this.watch = new ResizeObserver(() => this.resize());
    this.theme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.theme.addEventListener("change", this.redraw);
  }

  async show(samples) {
    this.samples = samples;
    this.uPlot ??= (await import("./vendor/uplot/uPlot.esm.js")).default;
    if (this.closed) return;
    this.draw();
    this.watch.observe(this.element);
  }

  /** One more sample; the oldest goes once there are as many as the pool keeps. */
  add(card, most) {
    if (!this.uPlot || !known(card.sampled_at) || card.sampled_at <= (this.samples.at(-1)?.at ?? 0)) return;
    this.samples.push({ at: card.sampled_at, temperature_c: card.temperature_c, memory_used_bytes: card.memory_used_bytes,
      unmanaged_bytes: card.unmanaged_bytes, utilization_percent: card.utilization_percent });
    if (this.samples.length > most) this.samples.shift();
    this.data().forEach((data, at) => this.plots[at]?.setData(data));
    this.tell();
  }

  close() {
    this.closed = true;
    this.watch.disconnect();
    this.theme.removeEventListener("change", this.redraw);
    for (const plot of this.plots) plot.destroy();
  }

  data() {
    const at = this.samples.map((sample) => sample.at / 1000);
    const of = (name, factor = 1) => this.samples.map((sample) => (known(sample[name]) ? sample[name] / factor : null));
    return [[at, of("temperature_c")], [at, of("memory_used_bytes", GIB), of("unmanaged_bytes", GIB)], [at, of("utilization_percent")]];
  }

  draw() {
    for (const plot of this.plots) plot.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const line = (label, name, more = {}) => ({ label, stroke: colour(name), width: 1.5, points: { show: false }, ...more });
    const [temperature, memory, load] = this.data();
    const top = known(this.total()) ? this.total() / GIB : null;
    this.plots = [
      this.plot(this.figures.temperature, temperature, [line("°C", "--bad")], (_, low, high) => [Math.min(low ?? 30, 30), Math.max(high ?? 90, 92)], this.thresholds(colour)),
      this.plot(this.figures.memory, memory, [line("used", "--leased", { fill: colour("--leased-soft") }), line("unmanaged", "--unmanaged", { dash: [4, 3] })], (_, low, high) => [0, top ?? Math.max(high ?? 1, 1)]),
      this.plot(this.figures.load, load, [line("%", "--accent", { fill: colour("--accent-soft") })], () => [0, 100]),
    ];
    this.tell();
  }

  plot(figure, data, series, range, hooks) {
    const style = getComputedStyle(document.documentElement);
    const [ink, grid] = [style.getPropertyValue("--muted").trim(), style.getPropertyValue("--line").trim()];
    const axis = { stroke: ink, font: "11px system-ui", grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    const times = (_, splits) => splits.map((at) => clock(at * 1000, at * 1000));
    return new this.uPlot({
      width: figure.canvas.clientWidth || 300, height: figure.height, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { range: span }, y: { range } }, axes: [{ ...axis, space: 80, size: 26, values: times }, { ...axis, size: 36, space: 28 }],
      series: [{}, ...series],
      hooks: { ...hooks, setCursor: [(plot) => text(figure.at, told(plot, series))] },
    }, data, figure.canvas);
  }

  /** Thresholds as dashed lines across the temperatures. */
  thresholds(colour) {
    return {
      drawAxes: [(plot) => {
        const { ctx, bbox } = plot;
        ctx.save();
        ctx.setLineDash([6, 4]);
        for (const [name, ink] of LINES) {
          const limit = this.limits()[name];
          if (!known(limit)) continue;
          const y = Math.round(plot.valToPos(limit, "y", true)) + 0.5;
          ctx.strokeStyle = colour(ink);
          ctx.beginPath();
          ctx.moveTo(bbox.left, y);
          ctx.lineTo(bbox.left + bbox.width, y);
          ctx.stroke();
        }
        ctx.restore();
      }],
    };
  }

  resize() {
    const all = Object.values(this.figures);
    this.plots.forEach((plot, at) => plot.setSize({ width: all[at].canvas.clientWidth, height: all[at].height }));
  }

  /** What the pictures show, for those who do not see them. */
  tell() {
    say(this.figures.temperature, "temperature_c", this.samples, (value) => `${value} °C`);
    say(this.figures.memory, "memory_used_bytes", this.samples, (value) => `${gib(value)} GiB`);
    say(this.figures.load, "utilization_percent", this.samples, (value) => `${value} %`);
  }
}

function figure(label, unit, height = 150) {
  const canvas = el("div", { class: height > 150 ? "canvas tall" : "canvas", role: "img", "aria-label": label });
  const at = el("span", { class: "second" });
  const element = el("figure", {}, el("figcaption", {}, el("span", {}, `${label}, ${unit}`), at), canvas);
  return { element, canvas, at, label, height };
}

function say({ canvas, label }, name, samples, words) {
  const values = samples.map((sample) => sample[name]).filter(known);
  const line = values.length
    ? `${label}: ${words(values.at(-1))} now, from ${words(Math.min(...values))} to ${words(Math.max(...values))} in ${samples.length} samples`
    : `${label}: not known`;
  canvas.setAttribute("aria-label", line);
}

/** At least a minute, so that the first samples of a card stand somewhere. */
function span(_, first, last) {
  const end = last ?? Date.now() / 1000;
  return [Math.min(first ?? end, end - 60), end];
}

function told(plot, series) {
  const at = plot.cursor.idx;
  if (at == null || plot.data[0][at] === undefined) return "";
  const time = plot.data[0][at] * 1000;
  const values = series.map((one, n) => [one.label, plot.data[n + 1][at]]).filter(([, value]) => known(value));
  return `${clock(time, time)}  ${values.map(([label, value]) => `${Number(value.toFixed(1))} ${label}`).join(", ")}`;
}
