// Replays denoising trajectories of several policies side by side.
//
// Tokens are never remasked, so the canvas after step t follows from the commit
// steps (0-based): a cell shows its token once its commit step is below t. Tokens
// after an early end, which no step committed, appear with the last step.
//
// The steps of a sample with `drafted` are rounds of speculative decoding: it
// has the draft of each token, or null where the model's token had none.

const PACE = 550, LONGEST = 9000; // ms: of a step, and of a whole play
const DENSE = 64; // tokens of which the cells are small

const visible = (s, i, t) =>
  t > 0 && (s.commit_step[i] < t || t >= s.num_steps);

// The text of a cell: its token, with white space made visible.
function shown(piece) {
  return piece.replaceAll('\n', '↵').replaceAll('\t', '⇥').trim() ||
    (piece ? '␣' : '·');
}

// What became of the draft of a token; '' in samples without drafts.
function fate(s, i) {
  if (!s.drafted || s.commit_step[i] >= s.num_steps) return '';
  if (s.drafted[i] === null) return 'own';
  return s.drafted[i] === s.pieces[i] ? 'accepted' : 'corrected';
}

const FATES = {'': () => '', own: () => ", the model's own",
  accepted: () => ', an accepted draft',
  corrected: (draft) => `, instead of the draft ${JSON.stringify(draft)}`};

const NAMES = {base: 'Base', control: 'Control', final: 'Final'};

class Panel {
  // `longest`: steps of the slowest sample shown, for a common scale.
  constructor(sample, blockLength, longest, parent) {
    this.sample = sample;
    this.unit = sample.drafted ? 'round' : 'step';
    this.name = sample.drafted ? sample.decoding
      : NAMES[sample.policy] || sample.policy;
    this.fates = sample.pieces.map((_, i) => fate(sample, i));
    this.hasEnd = sample.length < sample.pieces.length ||
      sample.pieces[sample.length - 1] === '';
    const panel = html('article', {class: `panel slot-${sample.policy}`,
      'data-policy': sample.policy, 'data-decoding': sample.decoding}, parent);
    const head = html('header', {}, panel);
    const title = html('h3', {}, head);
    html('i', {class: 'swatch'}, title);
    title.append(this.name);
    if (!sample.drafted) {
      html('span', {class: 'decoding'}, title, sample.decoding);
    }
    html('span', {class: sample.correct ? 'verdict right' : 'verdict wrong'},
      head, sample.correct ? '✓ ends right' : '✗ ends wrong');
    const dense = sample.pieces.length > DENSE;
    this.canvas = html('div', {class: dense ? 'canvas dense' : 'canvas'},
      panel);
    this.cells = this.makeCells(blockLength);
    this.makeTimeline(panel, longest);
    this.readout = this.makeReadout(panel);
    html('h4', {}, panel, 'Text so far');
    this.text = html('p', {class: 'text'}, panel);
  }

  makeCells(blockLength) {
    const {pieces, commit_step: commits, confidence, num_steps: total} =
      this.sample;
    const many = pieces.length > blockLength;
    let block = null;
    return pieces.map((piece, i) => {
      if (i % blockLength === 0) {
        block = html('div', {class: 'block'}, this.canvas);
        if (many) {
          block.setAttribute('data-label', `block ${i / blockLength + 1}`);
        }
      }
      const cell = html('span', {class: 'cell masked'}, block);
      cell.style.setProperty('--confidence', confidence[i]);
      cell.dataset.title = commits[i] < total
        ? `${JSON.stringify(piece)}, committed by ${this.unit} ` +
          `${commits[i] + 1}` +
          `${FATES[this.fates[i]](this.sample.drafted?.[i])}, ` +
          `confidence ${confidence[i].toFixed(3)}`
        : 'behind the end: no step committed it';
      return cell;
    });
  }

  // Tokens committed by each step as bars, and the reward as a line.
  makeTimeline(panel, longest) {
    const s = this.sample, total = Math.max(s.num_steps, 1);
    const counts = new Array(total).fill(0);
    for (const step of s.commit_step) if (step < total) counts[step]++;
    const most = Math.max(...counts, 1);
    const box = svg('svg', {class: 'timeline', preserveAspectRatio: 'none',
      viewBox: `0 0 ${Math.max(longest, 1)} 40`, 'aria-hidden': 'true'}, panel);
    this.bars = counts.map((count, i) => svg('rect', {x: i + 0.08,
      width: 0.84, y: 40 - 22 * count / most, height: 22 * count / most}, box));
    const known = s.rewards.map((r, k) => [s.steps[k], r])
      .filter(([, r]) => r !== null);
    if (known.length > 1) {
      const values = known.map(([, r]) => r);
      const low = Math.min(0, ...values), high = Math.max(0, ...values) || 1;
      let d = '';
      for (const [step, reward] of known) {
        const y = 15 - 13 * (reward - low) / (high - low);
        d += `${d ? `H${step - 1}` : `M${step - 1} ${y}`}V${y}H${step}`;
      }
      svg('path', {class: 'reward', d}, box);
    }
  }

  makeReadout(panel) {
    const list = html('dl', {class: 'readout'}, panel);
    const entry = (name) => {
      const item = html('div', {}, list);
      html('dt', {}, item, name);
      return html('dd', {}, item);
    };
    return {step: entry(this.unit), now: entry('tokens'),
      accepted: this.sample.drafted ? entry('accepted') : null,
      sure: entry('confidence'), rate: entry(`per ${this.unit}`),
      reward: this.sample.drafted && !this.sample.rewards.length ? null
        : entry('reward')};
  }

  // Measures cells and text at their final size and returns a function that
  // fixes it, so that nothing moves during a replay.
  settle() {
    const widths = this.cells.map((cell) => cell.offsetWidth);
    const height = this.text.offsetHeight;
    return () => {
      this.cells.forEach((cell, i) => {
        if (widths[i]) cell.style.setProperty('width', `${widths[i]}px`);
      });
      this.text.style.setProperty('min-height', `${height}px`);
    };
  }

  // The step of this panel when the player is at `time`.
  show(time) {
    const s = this.sample, t = Math.min(time, s.num_steps);
    const ended = this.hasEnd && visible(s, s.length - 1, t);
    let written = 0, fresh = [], accepted = 0, text = '';
    this.cells.forEach((cell, i) => {
      const seen = visible(s, i, t), now = s.commit_step[i] === t - 1;
      const after = seen && ended && i >= s.length;
      const end = this.hasEnd && i === s.length - 1;
      const what = after ? '' : this.fates[i];
      const classes = seen ? [now && 'new', after && 'after', what] : ['masked'];
      cell.className = ['cell', ...classes].filter(Boolean).join(' ');
      cell.textContent = !seen ? '' : end ? 'end' : shown(s.pieces[i]);
      if (seen && what === 'corrected') {
        cell.prepend(html('del', {}, null, s.drafted[i] ? shown(s.drafted[i])
          : 'end'));
      }
      cell.title = seen ? cell.dataset.title : 'undecided';
      if (seen && s.commit_step[i] < t) written++;
      if (now) fresh.push(s.confidence[i]);
      if (now && what === 'accepted') accepted++;
      if (seen && !after) text += s.pieces[i];
    });
    const sure = fresh.reduce((a, b) => a + b, 0) / fresh.length;
    const scored = s.steps.findLastIndex((step) => step <= t);
    const reward = scored < 0 || t === 0 ? null : s.rewards[scored];
    this.readout.step.textContent = `${t}/${s.num_steps}`;
    this.readout.now.textContent = fresh.length;
    if (s.drafted) this.readout.accepted.textContent = accepted;
    this.readout.sure.textContent = fresh.length ? sure.toFixed(2) : '–';
    this.readout.rate.textContent = t ? (written / t).toFixed(1) : '–';
    if (this.readout.reward) {
      this.readout.reward.textContent = number(reward, '');
    }
    this.text.textContent = text || '\u00a0';
    this.bars.forEach((bar, i) => {
      bar.setAttribute('class', i === t - 1 ? 'now' : i < t ? 'past' : '');
    });
    return `${this.name}: ${this.unit} ${t} of ${s.num_steps}, ` +
      `${fresh.length} tokens` + (s.drafted ? `, ${accepted} accepted` : '') +
      (fresh.length ? `, confidence ${sure.toFixed(2)}` : '');
  }
}

class Player {
  constructor(root, problems) {
    this.root = root;
    this.problems = problems;
    this.find = (selector) => root.querySelector(selector);
    this.select = this.find('select');
    this.slider = this.find('input[type=range]');
    this.timer = null;
    const actions = {
      'previous-problem': () => this.open(this.turn(-1)),
      'next-problem': () => this.open(this.turn(1)),
      first: () => this.seek(0),
      previous: () => this.seek(this.time - 1),
      play: () => this.toggle(),
      next: () => this.seek(this.time + 1),
      last: () => this.seek(this.total),
    };
    for (const button of root.querySelectorAll('button')) {
      button.addEventListener('click', actions[button.dataset.do]);
    }
    const keys = {ArrowLeft: 'previous', ArrowRight: 'next', Home: 'first',
      End: 'last', ' ': 'play', '[': 'previous-problem', ']': 'next-problem'};
    root.addEventListener('keydown', (event) => {
      const action = actions[keys[event.key]];
      const modified = event.ctrlKey || event.metaKey || event.altKey;
      if (!action || modified || event.target === this.select) return;
      if (event.key === ' ' && event.target.tagName === 'BUTTON') return;
      event.preventDefault();
      action();
    });
    this.select.addEventListener('change', () =>
      this.open(Number(this.select.value)));
    this.slider.addEventListener('input', () =>
      this.seek(Number(this.slider.value)));
    this.open(Number(this.select.value));
  }

  // The previous or next problem of the list, which wraps around.
  turn(by) {
    const options = this.select.options;
    const at = (this.select.selectedIndex + by + options.length);
    return Number(options[at % options.length].value);
  }

  open(place) {
    this.pause();
    this.select.value = String(place);
    const problem = this.problems[place];
    this.find('.kind').textContent =
      this.select.selectedOptions[0].parentElement.label;
    this.find('.prompt').textContent = problem.prompt.trim();
    this.find('.gold').textContent = problem.gold.trim();
    const panels = this.find('.panels');
    panels.replaceChildren();
    panels.dataset.count = problem.samples.length;
    const {samples} = problem;
    for (const item of this.root.querySelectorAll('[data-for=drafted]')) {
      item.hidden = !samples.some((s) => s.drafted);
    }
    this.find('.key-scale').hidden = samples.every((s) => s.drafted);
    this.unit = samples.every((s) => s.drafted) ? 'round' : 'step';
    this.total = Math.max(...problem.samples.map((s) => s.num_steps));
    this.panels = problem.samples.map((sample) =>
      new Panel(sample, problem.block_length, this.total, panels));
    this.slider.max = this.total;
    this.seek(this.total);
    this.panels.map((panel) => panel.settle()).forEach((apply) => apply());
  }

  // Jumps to a step and pauses.
  seek(time) {
    this.pause();
    this.show(time);
    this.find('[aria-live]').textContent = this.said.join('. ');
  }

  show(time) {
    this.time = clamp(time, 0, this.total);
    this.slider.value = this.time;
    this.said = this.panels.map((panel) => panel.show(this.time));
    this.slider.setAttribute('aria-valuetext',
      `${this.unit} ${this.time} of ${this.total}`);
    this.find('.step').textContent = `${this.time} / ${this.total}`;
    this.root.dataset.step = this.time;
  }

  toggle() {
    if (this.timer !== null) return this.pause();
    this.show(this.time >= this.total ? 0 : this.time);
    this.setPlaying(true);
    this.timer = setInterval(() => {
      this.show(this.time + 1);
      if (this.time >= this.total) this.pause();
    }, Math.min(PACE, LONGEST / this.total));
    return undefined;
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.setPlaying(false);
  }

  setPlaying(playing) {
    const button = this.find('.play');
    button.setAttribute('aria-label', playing ? 'Pause' : 'Play');
    this.root.classList.toggle('playing', playing);
  }
}
