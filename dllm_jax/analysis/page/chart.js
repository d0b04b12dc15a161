// Line charts: axes, series, intervals, values at the cursor, and a table.

const MARGIN = {left: 46, right: 14, top: 10, bottom: 24};

// Round numbers that cover [low, high], about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const found = [];
  for (let i = first; i <= last; i++) found.push(i * step);
  return found;
}

// The range of an axis: all means, raw values except for outliers, and
// intervals that are not much wider than everything else, so that neither a
// spike nor an interval over two seeds flattens the curves.
function range(series, unit) {
  const known = (key) => series.flatMap((s) => s[key] || [])
    .filter((v) => v !== null);
  const raw = known('raw').sort((a, b) => a - b);
  const values = [...known('y'), ...(raw.length
    ? [raw[Math.floor(0.01 * raw.length)], raw[Math.ceil(0.99 * raw.length) - 1]]
    : [])];
  let low = Math.min(...values), high = Math.max(...values);
  const reach = (high - low) || Math.abs(high) || 1;
  low = Math.max(Math.min(low, ...known('low')), low - reach);
  high = Math.min(Math.max(high, ...known('high')), high + reach);
  if (Math.min(...values) >= 0 && low < 0.6 * high) low = 0;
  if (high === low) {
    [low, high] = [Math.min(0, 2 * high), Math.max(0, 2 * high)];
    if (high === low) high = unit === 'share' ? 0.1 : 1;
  }
  if (unit === 'share') [low, high] = [Math.max(low, 0), Math.min(high, 1)];
  const room = 0.04 * (high - low);
  return [low === 0 ? 0 : low - room, high + room];
}

// Formats a number: shares in percent, at most four significant digits.
function number(value, unit) {
  if (value === null || value === undefined) return '–';
  if (unit === 'share') return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  if (size >= 1e4) {
    return Math.round(value).toLocaleString('en').replaceAll(',', '\u202f');
  }
  if (size && size < 1e-3) return value.toExponential(1).replace('-', '−');
  return String(Number(value.toPrecision(size < 1 ? 3 : 4))).replace('-', '−');
}

function path(points) {
  let text = '', open = false;
  for (const [x, y] of points) {
    if (y === null) { open = false; continue; }
    text += `${open ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    open = true;
  }
  return text;
}

class Chart {
  constructor(figure, spec) {
    this.spec = spec;
    this.legend = this.makeLegend(figure);
    this.svg = svg('svg', {tabindex: '0', role: 'img',
      'aria-label': this.summary()}, html('div', {class: 'plot'}, figure));
    this.live = html('p', {class: 'visually-hidden', 'aria-live': 'polite'},
      figure);
    this.makeTable(figure);
    this.xs = [...new Set(spec.series.flatMap((s) => s.x))]
      .sort((a, b) => a - b);
    this.at = null;
    this.listen();
    // The event has the width: reading it here would force another layout.
    new ResizeObserver(([entry]) => this.draw(entry.contentRect.width))
      .observe(this.svg.parentElement);
  }

  summary() {
    const ends = this.spec.series.map((s) =>
      `${s.name} from ${number(s.y[0], this.spec.unit)} to ` +
      `${number(s.y.at(-1), this.spec.unit)}`);
    return `${this.spec.title} over ${this.spec.x}: ${ends.join('; ')}. ` +
      'Left and right arrows read values.';
  }

  makeLegend(figure) {
    const list = html('p', {class: 'legend'}, figure);
    return this.spec.series.map((s) => {
      const item = html('span', {class: `slot-${s.slot}`}, list);
      html('i', {class: s.dash ? 'swatch dash' : 'swatch'}, item);
      item.append(s.name, ' ');
      return html('b', {}, item);
    });
  }

  makeTable(figure) {
    const details = html('details', {}, figure);
    html('summary', {}, details, 'Values');
    details.addEventListener('toggle', () => {
      if (details.childElementCount > 1) return;
      const scroll = html('div', {class: 'scroll', tabindex: '0'}, details);
      const table = html('table', {}, scroll);
      const head = html('tr', {}, html('thead', {}, table));
      html('th', {scope: 'col'}, head, this.spec.x);
      for (const s of this.spec.series) {
        html('th', {scope: 'col'}, head, s.name);
      }
      const body = html('tbody', {}, table);
      for (const x of this.xs) {
        const row = html('tr', {}, body);
        html('th', {scope: 'row'}, row, number(x, ''));
        for (const s of this.spec.series) {
          html('td', {}, row, s.x.includes(x) ? this.value(s, x) : '');
        }
      }
    });
  }

  listen() {
    const end = () => { this.at = null; this.mark(); };
    this.svg.addEventListener('pointermove', (event) => {
      const box = this.svg.getBoundingClientRect();
      const [low, high] = this.scale.x;
      const inner = box.width - MARGIN.left - MARGIN.right;
      const x = low + (high - low) * (event.clientX - box.left - MARGIN.left)
        / inner;
      this.at = this.xs.reduce((best, v, i) =>
        Math.abs(v - x) < Math.abs(this.xs[best] - x) ? i : best, 0);
      this.mark();
    });
    this.svg.addEventListener('pointerleave', end);
    this.svg.addEventListener('blur', end);
    this.svg.addEventListener('keydown', (event) => {
      const last = this.xs.length - 1, here = this.at ?? last;
      const stride = event.shiftKey ? Math.ceil(last / 20) : 1;
      const to = {ArrowLeft: here - stride, ArrowRight: here + stride,
        Home: 0, End: last, Escape: null}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.at = to === null ? null : clamp(to, 0, last);
      this.mark();
      this.live.textContent = this.at === null ? '' :
        `${this.spec.x} ${number(this.xs[this.at], '')}: ` +
        this.legend.map((b, i) =>
          `${this.spec.series[i].name} ${b.textContent}`).join(', ');
    });
  }

  nearest(s, x) {
    return s.x.reduce((best, v, i) =>
      Math.abs(v - x) < Math.abs(s.x[best] - x) ? i : best, 0);
  }

  value(s, x) {
    const i = this.nearest(s, x), unit = this.spec.unit;
    const half = s.low && s.low[i] !== null
      ? ` ± ${number(s.high[i] - s.y[i], unit).replace(' %', '')}` : '';
    const label = s.labels ? ` (${s.labels[i]})` : '';
    return number(s.y[i], unit) + half + label;
  }

  // Shows the values at the cursor, or at the ends without a cursor.
  mark() {
    const {series} = this.spec;
    this.cursor.replaceChildren();
    const x = this.at === null ? null : this.xs[this.at];
    if (x !== null) {
      const [left] = this.place(x, 0);
      svg('line', {class: 'rule', x1: left, x2: left, y1: MARGIN.top,
        y2: this.size[1] - MARGIN.bottom}, this.cursor);
      svg('text', {class: 'tick-label rule-label', x: left,
        y: this.size[1] - 6, 'text-anchor': 'middle'}, this.cursor,
      number(x, ''));
    }
    series.forEach((s, i) => {
      const marked = s.marks && x === null;
      this.legend[i].textContent = marked ? '' : this.value(s, x ?? s.x.at(-1));
      if (x === null) return;
      const k = this.nearest(s, x);
      if (s.y[k] === null) return;
      const [cx, cy] = this.place(s.x[k], s.y[k]);
      svg('circle', {class: `slot-${s.slot}`, cx, cy, r: 4}, this.cursor);
    });
  }

  place(x, y) {
    const [width, height] = this.size;
    const [x0, x1] = this.scale.x, [y0, y1] = this.scale.y;
    const left = MARGIN.left + (width - MARGIN.left - MARGIN.right)
      * (x - x0) / (x1 - x0 || 1);
    if (y === null) return [left, null];
    const inner = height - MARGIN.top - MARGIN.bottom;
    return [left, MARGIN.top + inner * (1 - (y - y0) / (y1 - y0))];
  }

  draw(width) {
    const wide = this.svg.closest('.wide') !== null;
    if (!width) return;
    const height = wide && width > 560 ? 320 : 200;
    this.size = [width, height];
    const {series, unit} = this.spec;
    let [low, high] = [this.xs[0], this.xs.at(-1)];
    if (series[0].marks) [low, high] = [0, high * 1.03];
    this.scale = {x: [low, high], y: range(series, unit)};
    this.svg.replaceChildren();
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('height', height);
    this.drawAxes(wide);
    const inside = svg('svg', {x: MARGIN.left - 6, y: 0,
      width: width - MARGIN.left - MARGIN.right + 12,
      height: height - MARGIN.bottom + 4, viewBox: [MARGIN.left - 6, 0,
        width - MARGIN.left - MARGIN.right + 12,
        height - MARGIN.bottom + 4].join(' ')}, this.svg);
    for (const s of series) if (!s.marks) this.drawArea(s, inside);
    for (const s of series) this.drawLine(s, inside);
    this.cursor = svg('g', {}, this.svg);
    this.mark();
  }

  drawAxes(wide) {
    const [width, height] = this.size;
    const {x, y} = this.scale, axes = svg('g', {}, this.svg);
    for (const v of ticks(...y, 4)) {
      const [, top] = this.place(x[0], v);
      svg('line', {class: 'tick', x1: MARGIN.left, x2: width - MARGIN.right,
        y1: top, y2: top}, axes);
      const text = this.spec.unit === 'share'
        ? `${Number((100 * v).toFixed(2))} %` : number(v, '');
      svg('text', {class: 'tick-label', x: MARGIN.left - 8, y: top + 4,
        'text-anchor': 'end'}, axes, text);
    }
    for (const v of ticks(...x, wide ? 8 : 4)) {
      const [left] = this.place(v, 0);
      const end = left > width - 30;
      svg('text', {class: 'tick-label', x: end ? width - 2 : left,
        y: height - 6, 'text-anchor': end ? 'end' : 'middle'}, axes,
      number(v, ''));
    }
  }

  drawArea(s, parent) {
    const at = (values) => s.x.map((x, i) => this.place(x, values[i]));
    const group = svg('g', {class: `slot-${s.slot}`}, parent);
    if (s.low && s.low[0] !== null) {
      const outline = [...at(s.high), ...at(s.low).reverse()];
      svg('path', {class: 'band', d: `${path(outline)}Z`}, group);
    }
    if (s.raw) svg('path', {class: 'raw', d: path(at(s.raw))}, group);
  }

  drawLine(s, parent) {
    const group = svg('g', {class: `slot-${s.slot}`}, parent);
    const points = s.x.map((x, i) => this.place(x, s.y[i]));
    svg('path', {class: s.dash ? 'line dash' : 'line', d: path(points)}, group);
    if (s.x.length === 1) {
      svg('circle', {cx: points[0][0], cy: points[0][1], r: 3}, group);
    }
    if (!s.marks) return;
    points.forEach(([cx, cy], i) => {
      const x = s.x[i];
      if (s.low && s.low[i] !== null) {
        svg('line', {class: 'whisker', x1: cx, x2: cx,
          y1: this.place(x, s.low[i])[1], y2: this.place(x, s.high[i])[1]},
        group);
      }
      if (s.dash) {
        svg('rect', {x: cx - 3.5, y: cy - 3.5, width: 7, height: 7}, group);
      } else svg('circle', {cx, cy, r: 4}, group);
    });
  }
}
