/** The chart of throughput: redirected and TCP bytes a second over the last minutes. */
import uPlot from './uplot.js';

import { formatRate } from './format.js';

/** Seconds that are shown: the least at the beginning, the most in the end. */
const SPAN = { least: 60, most: 300 };

/** A gap longer than this is shown as one, seconds. */
const GAP = 5;

/**
 * The colour that the style sheet gives to an element, in the theme that is shown.
 * @param {string} selector
 */
function colourOf(selector) {
  const element = document.querySelector(selector);
  return element === null ? '' : getComputedStyle(element).color;
}

/**
 * @param {string} colour rgb(...)
 * @param {number} alpha
 */
function faded(colour, alpha) {
  return colour.replace(/^rgb\((.*)\)$/, (_, parts) => `rgba(${String(parts)}, ${alpha})`);
}

export class ThroughputChart {
  /** @type {HTMLElement} */
  #place;
  /** @type {uPlot | undefined} */
  #plot;
  /** @type {[number[], (number | null)[], (number | null)[]]} */
  #data = [[], [], []];

  /** @param {HTMLElement} place */
  constructor(place) {
    this.#place = place;
    this.draw();
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(place);
  }

  /**
   * @param {number} now seconds
   * @param {number} redirected bytes a second
   * @param {number} tcp bytes a second
   */
  add(now, redirected, tcp) {
    const [times, first, second] = this.#data;
    const last = times.at(-1);
    if (last !== undefined && now - last > GAP) {
      times.push(now - 1);
      first.push(null);
      second.push(null);
    }
    times.push(now);
    first.push(redirected);
    second.push(tcp);
    while ((times[0] ?? now) < now - SPAN.most - 1) for (const list of this.#data) list.shift();
    this.#plot?.setData(this.#data, false);
    this.#plot?.setScale('x', this.#span());
  }

  /** Draws all of it again, in the colours of the theme. */
  draw() {
    this.#plot?.destroy();
    const text = colourOf('.chart-text');
    const grid = colourOf('.chart-grid');
    const redirected = colourOf('.key-redirected');
    const tcp = colourOf('.key-tcp');
    const font = '12px system-ui, sans-serif';
    this.#plot = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { show: true, points: { size: 7 }, drag: { x: false, y: false } },
        scales: {
          x: { time: true, auto: false, ...this.#span() },
          y: { range: (_, __, most) => [0, Math.max(1024, (Number.isFinite(most) ? most : 0) * 1.1)] },
        },
        axes: [
          {
            stroke: text,
            font,
            size: 30,
            grid: { show: false },
            ticks: { stroke: grid, width: 1, size: 4 },
            space: 70,
            values: (_, times) => times.map((time) => clock(time)),
          },
          {
            stroke: text,
            font,
            size: 84,
            grid: { stroke: grid, width: 1 },
            ticks: { show: false },
            space: 44,
            incrs: Array.from({ length: 45 }, (_, power) => 2 ** power),
            values: (_, rates) => rates.map((rate) => formatRate(rate)),
          },
        ],
        series: [
          {},
          { label: 'Redirected', stroke: redirected, width: 2, fill: faded(redirected, 0.14), points: { show: false } },
          { label: 'Over TCP', stroke: tcp, width: 2, dash: [6, 4], points: { show: false } },
        ],
        hooks: { setCursor: [this.#point] },
      },
      this.#data,
      this.#place,
    );
  }

  /** @type {(plot: uPlot) => void} */
  #point = (plot) => {
    const index = plot.cursor.idx;
    const readout = document.querySelector('#chart-readout');
    if (readout === null) return;
    const [times, first, second] = this.#data;
    const time = index === null || index === undefined ? undefined : times[index];
    const [redirected, tcp] = [first[index ?? -1], second[index ?? -1]];
    readout.textContent =
      time === undefined || redirected == null || tcp == null
        ? ''
        : `${clock(time)}: ${formatRate(redirected)} redirected, ${formatRate(tcp)} over TCP`;
  };

  #span() {
    const [times] = this.#data;
    const max = times.at(-1) ?? Date.now() / 1000;
    const shown = Math.min(SPAN.most, Math.max(SPAN.least, max - (times[0] ?? max)));
    return { min: max - shown, max };
  }

  #size() {
    return { width: Math.max(200, this.#place.clientWidth), height: Math.max(160, this.#place.clientHeight) };
  }
}

/** @param {number} time seconds */
function clock(time) {
  return new Date(time * 1000).toLocaleTimeString('en-GB');
}
