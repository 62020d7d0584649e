/**
 * The dashboard: asks /api for what is going on and shows it. Everything from the daemon is set as text, never as markup.
 *
 * @import { ApiEnd, ApiPair, ApiStatus } from '../daemon/api.js'
 */
import { ThroughputChart } from './charts.js';
import { formatBytes, formatCount, formatDuration, formatRate, formatShort, formatTime } from './format.js';
import { AnswerError, getJson, poll } from './poll.js';
import { REASONS } from './reasons.js';

/** Rows of the table. */
const TOP = 8;
/** Microseconds that a redirected message is taken to save: docs/benchmarks.md, ping-pong on one CPU. */
const PER_MESSAGE = 4.5;

/** The states in the order of a pair's life, as people would say it. */
const STATES = /** @type {const} */ ([
  ['inserted', 'promoted: its messages are redirected'],
  ['observed', 'on TCP, watched'],
  ['candidate', 'to be judged'],
  ['approved', 'about to be promoted'],
  ['draining', 'on its way back to TCP'],
  ['leaving', 'about to leave the sockmap'],
  ['half', 'one end seen'],
  ['joining', 'being paired'],
  ['closed', 'closed, one end is still open'],
]);

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @param {new () => T} [kind]
 * @returns {T}
 */
function byId(id, kind) {
  const found = document.getElementById(id);
  if (found === null || (kind !== undefined && !(found instanceof kind))) throw new Error(`the page has no ${id}`);
  return /** @type {T} */ (found);
}

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {(Node | string)[]} content
 */
function make(tag, attributes, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

/**
 * Changes a text only if it is another one, so that a selection survives.
 * @param {string} id
 * @param {string} text
 */
function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {string} id
 * @param {Node[]} children
 */
function setChildren(id, children) {
  const list = byId(id);
  const now = make('div', {}, ...children);
  if (list.innerHTML !== now.innerHTML) list.replaceChildren(...now.childNodes);
}

/**
 * A list of counts with bars, the largest first.
 * @param {string} id
 * @param {(readonly [name: string, meaning: string, count: number])[]} entries
 * @param {string} nothing what to say without any
 */
function showBars(id, entries, nothing) {
  const shown = entries.filter(([, , count]) => count > 0).sort((a, b) => b[2] - a[2]);
  if (shown.length === 0) {
    setChildren(id, [make('li', { class: 'empty' }, nothing)]);
    return;
  }
  const most = shown[0]?.[2] ?? 1;
  setChildren(
    id,
    shown.map(([name, meaning, count]) =>
      make(
        'li',
        {},
        make('span', { class: 'bar-name' }, name.replaceAll('_', ' ')),
        make('span', { class: 'bar-count', title: formatCount(count) }, formatShort(count)),
        // A meter is what it is, and needs no style attribute, which the content security policy forbids.
        make('progress', { max: String(most), value: String(count), 'aria-hidden': 'true' }),
        make('span', { class: 'bar-meaning' }, meaning),
      ),
    ),
  );
}

/**
 * @param {string} id
 * @param {keyof typeof REASONS} metric
 * @param {Record<string, number>} counts
 */
function showReasons(id, metric, counts) {
  /** @type {Record<string, string>} */
  const meanings = REASONS[metric];
  showBars(
    id,
    Object.entries(counts).map(([reason, count]) => [reason, meanings[reason] ?? '', count]),
    'None so far.',
  );
}

/** @param {ApiStatus} status */
function showFigures(status) {
  const { rate, datapath } = status;
  if (datapath === undefined) return;
  const { free, ...open } = datapath.pairs;
  const pairs = Object.values(open).reduce((sum, count) => sum + count, 0);
  setText('redirected', rate === null ? '–' : formatRate(rate.redirectedBytes));
  setText(
    'redirected-messages',
    rate === null ? 'measuring' : `${formatShort(Math.round(rate.redirectedMessages))} messages a second`,
  );
  setText('tcp', rate === null ? '–' : formatRate(rate.tcpBytes));
  setText('promoted', formatCount(datapath.pairs.inserted));
  setText('promoted-of', `of ${formatCount(pairs)} with both ends here`);
  const perMessage = savedPerMessage() / 1e6;
  setText('saved', rate === null ? '–' : `≈ ${formatTime(rate.redirectedMessages * perMessage)}`);
  setText('saved-total', `each second, ≈ ${formatTime(datapath.redirectedMessages * perMessage)} since loading`);
  setText('table-use', `${formatCount(datapath.maxPairs - free)} of ${formatCount(datapath.maxPairs)} slots`);
}

/** @param {ApiStatus} status */
function showKernel({ kernel }) {
  setText('kernel', kernel.name);
  const forbidding = kernel.findings.find(({ forbids }) => forbids);
  const wrong = kernel.findings.filter(({ status }) => status !== 'ok');
  const verdict = byId('gate');
  verdict.dataset['state'] = forbidding === undefined ? 'good' : 'bad';
  setText(
    'gate',
    forbidding !== undefined
      ? `The kernel gate forbids promotion: ${forbidding.id}`
      : `Promotion is allowed: ${kernel.findings.length - wrong.length} of ${kernel.findings.length} checks are in order`,
  );
  setChildren(
    'findings',
    wrong.map(({ id, status, asks, consequence, remedy, forbids }) =>
      make(
        'li',
        { 'data-state': forbids ? 'bad' : status === 'unknown' ? 'unknown' : 'note' },
        make('strong', {}, `${asks}: ${status === 'unknown' ? 'not known' : 'no'}`),
        make('span', {}, `${consequence ?? id}${forbids ? `; ${remedy ?? ''}` : ''}`),
      ),
    ),
  );
  const striking = kernel.bugs.filter(({ consequence }) => consequence !== 'avoided');
  const avoided = kernel.bugs.length - striking.length;
  setText(
    'bugs',
    [
      striking.length === 0
        ? 'No known bug of this release can strike.'
        : `Known bugs: ${striking.map(({ id, summary }) => `${id}, ${summary}`).join(' ')}`,
      ...(avoided > 0 ? [`${avoided} more need what the datapath never does.`] : []),
    ].join(' '),
  );
}

/** @param {ApiStatus} status */
function showController({ version, now, controller, policy, datapath }) {
  if (datapath === undefined) return;
  const ago = (/** @type {number} */ at) => `${formatDuration((now - at) / 1000)} ago`;
  /** @type {[name: string, value: string, isBad?: boolean][]} */
  const facts = [
    ['Running for', formatDuration((now - controller.started) / 1000)],
    ['Datapath loaded', `${formatDuration(datapath.loadedSeconds)} ago, by ${datapath.version}`],
    ['Attached to', datapath.attachedCgroup ?? 'a cgroup that is gone'],
    ['Promotions', formatCount(datapath.promotions)],
    ['Taken back', formatCount(Object.values(datapath.demotions).reduce((sum, count) => sum + count, 0))],
    ['Waiting to be read', formatBytes(controller.backlogBytes)],
    ['Stalled readers', formatCount(controller.stalled), controller.stalled > 0],
    ['Programs learned', formatCount(controller.learned), controller.learned > 0],
    ['Messages refused', formatCount(controller.dropped), controller.dropped > 0],
    ['Events lost', formatCount(datapath.eventsLost)],
  ];
  if (policy !== null) {
    const { problem, at } = policy.lastReading;
    facts.push(
      ['Policy', `${policy.file}, ${formatCount(policy.rules)} rules, ${policy.hash}`],
      ['In force since', ago(policy.readAt)],
      [
        'Last reload',
        problem !== null
          ? `failed ${ago(at)}, the old one stays in force: ${problem}`
          : policy.reloads.success + policy.reloads.failure === 0
            ? 'none yet'
            : `${ago(at)}, in order`,
        problem !== null,
      ],
    );
  }
  setChildren(
    'controller',
    facts.flatMap(([name, value, isBad = false]) => [
      make('dt', {}, name),
      make('dd', isBad ? { 'data-state': 'bad' } : {}, value),
    ]),
  );
  setText('build', `version ${version}${datapath.paused ? ', being taken down' : ''}`);
}

/** @param {ApiEnd} end */
function describeEnd(end) {
  const address = end.address.includes(':') ? `[${end.address}]` : end.address;
  return [
    make('strong', {}, end.program ?? 'not read yet', ...(end.pid === null ? [] : [make('small', {}, ` ${end.pid}`)])),
    make('span', { class: 'address' }, `${address}:${end.port}`),
    make('span', { class: 'cgroup', title: end.cgroup ?? '' }, end.name ?? 'cgroup gone'),
  ];
}

/** @param {ApiPair[]} pairs */
function showTop(pairs) {
  byId('top-empty').hidden = pairs.length > 0;
  byId('top').hidden = pairs.length === 0;
  const body = document.querySelector('#top tbody');
  body?.replaceChildren(
    ...pairs.map((pair) => {
      const direct = [pair.toServer, pair.toClient].filter(({ path }) => path === 'direct').length;
      const path = direct === 2 ? 'direct' : direct === 1 ? 'direct one way' : 'TCP';
      return make(
        'tr',
        {},
        make('th', { scope: 'row' }, pair.id, make('small', {}, pair.state)),
        make('td', { 'data-label': 'Client' }, ...describeEnd(pair.client)),
        make('td', { 'data-label': 'Server' }, ...describeEnd(pair.server)),
        make(
          'td',
          { 'data-label': 'Path' },
          make('span', { class: 'path', 'data-path': direct > 0 ? 'direct' : 'tcp' }, path),
          ...(pair.reason === null ? [] : [make('small', {}, pair.reason.replaceAll('_', ' '))]),
        ),
        make('td', { 'data-label': 'Redirected', class: 'number' }, rateOf(pair.rate?.redirectedBytes)),
        make('td', { 'data-label': 'Over TCP', class: 'number' }, rateOf(pair.rate?.tcpBytes)),
      );
    }),
  );
}

/** @param {number | undefined} rate */
function rateOf(rate) {
  return rate === undefined ? '–' : formatRate(rate);
}

/**
 * @param {'waiting' | 'good' | 'bad'} state
 * @param {string} text
 */
function showConnection(state, text) {
  const pill = byId('connection');
  pill.dataset['state'] = state;
  const label = pill.querySelector('span');
  if (label !== null && label.textContent !== text) label.textContent = text;
  document.body.dataset['stale'] = String(state === 'bad');
}

/** @param {string} text empty: nothing is wrong */
function showAlert(text) {
  const alert = byId('alert');
  alert.hidden = text === '';
  if (alert.textContent !== text) alert.textContent = text;
}

/** What the browser keeps, if it keeps anything. */
const kept = {
  /** @param {string} key */
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  /**
   * @param {string} key
   * @param {string | null} value
   */
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
    } catch {
      // then it holds until the page is left
    }
  },
};

const perMessage = byId('per-message', HTMLInputElement);

/** Microseconds. */
function savedPerMessage() {
  const value = perMessage.valueAsNumber;
  return perMessage.validity.valid && Number.isFinite(value) ? value : PER_MESSAGE;
}

perMessage.value = kept.get('perMessage') ?? String(PER_MESSAGE);
perMessage.addEventListener('change', () => {
  kept.set('perMessage', perMessage.validity.valid ? perMessage.value : null);
});

const chart = new ThroughputChart(byId('chart'));

const THEMES = /** @type {const} */ (['system', 'light', 'dark']);

/** @param {string} theme */
function showTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = theme;
  kept.set('theme', theme === 'system' ? null : theme);
  const label = byId('theme').querySelector('span');
  if (label !== null) label.textContent = `Theme: ${theme}`;
  chart.draw();
}

byId('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset['theme'] ?? 'system';
  showTheme(THEMES[(THEMES.findIndex((theme) => theme === now) + 1) % THEMES.length] ?? 'system');
});
showTheme(document.documentElement.dataset['theme'] ?? 'system');
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  chart.draw();
});

poll({
  read: async () => {
    const [status, pairs] = await Promise.all([getJson('api/status'), getJson(`api/pairs?sort=rate&limit=${TOP}`)]);
    return { status: /** @type {ApiStatus} */ (status), pairs: /** @type {ApiPair[]} */ (pairs) };
  },
  onData: ({ status, pairs }) => {
    showConnection('good', 'Controller running');
    showAlert('');
    showFigures(status);
    if (status.rate !== null) {
      chart.add(status.now / 1000, status.rate.redirectedBytes, status.rate.tcpBytes);
      byId('chart').setAttribute(
        'aria-label',
        `Throughput: ${formatRate(status.rate.redirectedBytes)} redirected, ${formatRate(status.rate.tcpBytes)} over TCP`,
      );
    }
    showTop(pairs);
    const { datapath } = status;
    if (datapath !== undefined) {
      showBars(
        'states',
        STATES.map(([state, meaning]) => [state, meaning, datapath.pairs[state]]),
        'No connection has both ends here at present.',
      );
      showReasons('refusals', 'slipstream_refusals_total', datapath.refusals);
      showReasons('passes', 'slipstream_passed_messages_total', datapath.passed);
      showReasons('unpaired', 'slipstream_unpaired_total', datapath.unpaired);
    }
    showKernel(status);
    showController(status);
  },
  onFailure: (error, retryIn) => {
    const when = `trying again in ${formatDuration(Math.ceil(retryIn / 1000))}`;
    if (error instanceof AnswerError) {
      showConnection('bad', 'Controller not ready');
      showAlert(`The controller says: ${error.message}; ${when}.`);
    } else {
      showConnection('bad', 'Controller not reachable');
      showAlert(
        `The controller is not reachable, ${when}. Figures are the last ones known; live pairs go on without it.`,
      );
    }
  },
});
