"""The report in a browser: the player, keys, hostile text, size and speed."""

import json
import time

import numpy as np
import pytest

from dllm_jax.analysis import comparison, record, report
from tests import browser as browser_lib
from tests.analysis import made_run

BASE = made_run.sample(
  'base',
  ['<r>\n', ' 3', '\n', ' 4', ' +', made_run.ATTACK, '{{ 7 * 7 }}', ''],
  [0, 3, 1, 2, 4, 4, 5, 0],
  6,
)
FINAL = made_run.sample(
  'final',
  [' a', ' b', ' c', ' d', ' e', ' f', '', ''],
  [0, 0, 1, 1, 2, 2, 0, 3],
  3,
)
FINAL['length'] = 7  # the last cell is behind the end, and no step committed it
SECOND = made_run.problem(
  'broken',
  [
    made_run.sample('base', ['x', 'y'], [1, 0], 2),
    made_run.sample('final', ['z', '<b>'], [0, 0], 1),
  ],
  prompt=made_run.ATTACK,
)


@pytest.fixture(scope='module')
def browser():
  with browser_lib.open_browser() as found:
    yield found


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The report of a run, one of whose problems is hostile."""
  directory = made_run.make(
    tmp_path_factory.mktemp('page') / made_run.ATTACK.replace('/', '')
  )
  made_run.problems(
    directory, [made_run.problem('fixed', [BASE, FINAL]), SECOND]
  )
  return report.write(directory)


CELLS = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    [...panel.querySelectorAll('.cell')].map((cell) => [
      cell.className, cell.textContent,
      Number(cell.style.getPropertyValue('--confidence'))]));
"""
TEXTS = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    panel.querySelector('.text').textContent);
"""
READOUT = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    [...panel.querySelectorAll('.readout dd')].map((dd) => dd.textContent));
"""
STEP = "return Number(document.querySelector('.player').dataset.step)"


def cells(sample, step):
  """(class, text, confidence) of each cell after `step` steps, rebuilt."""
  step = min(step, sample['num_steps'])
  commit, length = sample['commit_step'], sample['length']
  seen = [
    step > 0 and (at < step or step == sample['num_steps']) for at in commit
  ]
  end = length - 1 if sample['pieces'][length - 1] == '' else None
  found = []
  for i, piece in enumerate(sample['pieces']):
    kind = ['cell']
    if not seen[i]:
      kind.append('masked')
    if commit[i] == step - 1:
      kind.append('new')
    if seen[i] and end is not None and i > end and seen[end]:
      kind.append('after')
    text = piece.replace('\n', '↵').strip() or ('␣' if piece else '·')
    text = 'end' if i == end else text
    found.append(
      [' '.join(kind), text if seen[i] else '', sample['confidence'][i]]
    )
  return found


def assert_canvas(browser, samples, step):
  assert browser.run(STEP) == step
  assert browser.run(CELLS) == [cells(sample, step) for sample in samples]


def load(browser, path, width=1280):
  browser.resize(width)
  browser.log('browser'), browser.log('performance')
  browser.open(path)


def assert_quiet(browser, path):
  """Nothing was logged, and nothing but the file was asked for."""
  assert browser.log('browser') == []
  asked = [
    event['params']['request']['url']
    for event in browser.log('performance')
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert asked == [path.resolve().as_uri()]
  assert browser.run("return performance.getEntriesByType('resource')") == []


def wait(browser, script):
  """What a script returns, once it is true."""
  ends = time.monotonic() + 30
  while not (found := browser.run(script)) and time.monotonic() < ends:
    time.sleep(0.05)
  return found


def test_every_step_shows_the_canvas_of_the_trajectory(browser, page):
  load(browser, page)
  both = [BASE, FINAL]
  assert_canvas(browser, both, 6)  # it opens with the finished text
  assert browser.run(TEXTS)[0] == ''.join(BASE['pieces'])
  browser.click('[data-do=first]')
  assert_canvas(browser, both, 0)
  for step in range(1, 7):
    browser.click('[data-do=next]')
    assert_canvas(browser, both, step)
  browser.click('[data-do=next]')
  assert_canvas(browser, both, 6)
  for step in range(5, -1, -1):
    browser.click('[data-do=previous]')
    assert_canvas(browser, both, step)
  browser.run("""
    const slider = document.querySelector('.player input');
    slider.value = 4;
    slider.dispatchEvent(new Event('input'));
  """)
  assert_canvas(browser, both, 4)
  # After 4 of 6: one token, of confidence 2/8; 5 tokens in 4 steps.
  assert browser.run(READOUT)[0] == ['4/6', '1', '0.25', '1.3', '4']
  assert browser.run(READOUT)[1] == ['3/3', '2', '0.69', '2.3', '3']
  assert browser.run(TEXTS) == ['<r>\n 3\n 4', ' a b c d e f']
  assert_quiet(browser, page)


def test_play_runs_to_the_end_and_stops(browser, page):
  load(browser, page)
  press = """
    document.querySelector('[data-do=play]').click();
    const player = document.querySelector('.player');
    return [player.classList.contains('playing'), player.dataset.step];
  """
  assert browser.run(press) == [True, '0']  # from the beginning
  assert browser.run(press)[0] is False  # pauses
  assert browser.run(press)[0] is True
  assert wait(browser, "return !document.querySelector('.playing')")
  assert_canvas(browser, [BASE, FINAL], 6)
  assert_quiet(browser, page)


def test_keys_step_play_and_change_the_problem(browser, page):
  load(browser, page)
  browser.run("document.querySelector('.player').focus()")
  for keys, step in (
    (['home'], 0),
    (['right', 'right'], 2),
    (['left'], 1),
    (['end'], 6),
  ):
    browser.press(*keys)
    assert_canvas(browser, [BASE, FINAL], step)
  browser.press(']')
  assert_canvas(browser, SECOND['samples'], 2)
  browser.press('home', 'right')
  assert_canvas(browser, SECOND['samples'], 1)
  browser.press(']')  # around the end
  assert_canvas(browser, [BASE, FINAL], 6)
  browser.press('space')
  assert browser.run("return document.querySelector('.playing') !== null")
  browser.press('space')
  assert browser.run("return document.querySelector('.playing') === null")
  assert_quiet(browser, page)


def test_tab_reaches_every_control_and_shows_the_focus(browser, page):
  load(browser, page)
  seen = []
  for _ in range(40):
    browser.press('tab')
    seen.append(
      browser.run("""
        const at = document.activeElement, style = getComputedStyle(at);
        return [at.tagName + (at.dataset.do ? ':' + at.dataset.do : ''),
          style.outlineStyle !== 'none' || at.className === 'skip'];
      """)
    )
  names = {name for name, _ in seen}
  actions = ('first', 'previous', 'play', 'next', 'last', 'next-problem')
  assert {f'BUTTON:{action}' for action in actions} <= names
  assert {'SELECT', 'INPUT', 'svg', 'SUMMARY'} <= names
  assert all(has_outline for name, has_outline in seen if name != 'BODY')


def test_a_chart_is_read_by_keys_and_as_a_table(browser, page):
  load(browser, page)
  chart = "document.querySelector('[data-section=learning]')"
  browser.run(f"{chart}.querySelector('svg').focus()")
  browser.press('home', 'right')
  said = browser.run(f"return {chart}.querySelector('[aria-live]').textContent")
  run = record.read(page.parent)
  values = run.curves['rl']['reward/mean'].values
  assert said == f'step 2: reward {values[1]:.3g}'
  browser.run(f"{chart}.querySelector('details').open = true")
  assert wait(browser, f"return {chart}.querySelector('tbody') !== null")
  rows = browser.run(
    f"return [...{chart}.querySelectorAll('tbody tr')].map((row) => "
    'row.textContent)'
  )
  assert len(rows) == 30 and rows[1] == f'2{values[1]:.3g}'
  assert_quiet(browser, page)


def test_hostile_text_stays_text(browser, page):
  load(browser, page)
  browser.press(']')
  assert browser.run('return window.attacked === undefined')
  assert browser.run("return document.querySelectorAll('img').length") == 0
  text = browser.run('return document.body.textContent')
  assert made_run.ATTACK in text and '{{ 7 * 7 }}' in text
  # Were markup to get in, the page's policy would not run it.
  browser.run("""
    document.body.insertAdjacentHTML('beforeend',
      '<img src="data:," onerror="window.attacked=1">' +
      '<button id="bad" onclick="window.attacked=1">x</button>');
    document.getElementById('bad').click();
  """)
  # A picture that cannot load says so by now: the next one has been refused.
  wait(
    browser,
    """
    const picture = new Image();
    picture.onerror = () => { window.refused = 1; };
    picture.src = 'data:,';
    return window.refused;
  """,
  )
  assert browser.run('return window.attacked === undefined')
  blocked = [entry['message'] for entry in browser.log('browser')]
  assert any('Content Security Policy' in message for message in blocked)


@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_nothing_overflows_the_page(browser, page, width, scheme):
  browser.prefer(prefers_color_scheme=scheme)
  load(browser, page, width)
  size = browser.run(
    'return [document.documentElement.scrollWidth, innerWidth]'
  )
  assert size == [width, width]
  ground = browser.run('return getComputedStyle(document.body).backgroundColor')
  assert (ground == 'rgb(18, 20, 25)') == (scheme == 'dark')
  assert_quiet(browser, page)
  browser.prefer()


def test_a_long_run_is_small_and_opens_fast(browser, tmp_path):
  """1000 steps and 64 trajectories of 256 tokens in 256 steps."""
  directory = made_run.make(tmp_path / 'run', steps=1000)
  rng = np.random.default_rng(0)
  long = lambda policy: made_run.sample(
    policy,
    [f' token{i}' for i in rng.integers(0, 10**4, 256)],
    rng.permutation(256).tolist(),
    256,
  )
  made_run.problems(
    directory,
    [
      made_run.problem('both right', [long('base'), long('final')])
      for _ in range(32)
    ],
  )
  path = report.write(directory)
  assert path.stat().st_size < 5e6
  browser.devtools('Performance.enable', timeDomain='threadTicks')
  load(browser, path)
  assert browser.run("return document.querySelectorAll('.cell').length") > 500
  # Processor time of the page's thread: other work here does not count.
  measured = browser.devtools('Performance.getMetrics')['metrics']
  seconds = {entry['name']: entry['value'] for entry in measured}
  assert 0 < seconds['TaskDuration'] < 2
  assert_quiet(browser, path)


def test_a_comparison_draws_curves_with_intervals(browser, tmp_path):
  runs = [
    made_run.make(tmp_path / f'{method}{seed}', seed=seed, method=method)
    for method in ('ag_grpo', 'diffu_grpo')
    for seed in (0, 1)
  ]
  path = report.save(
    comparison.of_runs([record.read(run) for run in runs]),
    tmp_path / 'all.html',
  )
  load(browser, path)
  labels = browser.run("""
    return [...document.querySelectorAll('[data-section=learning] svg[role]')]
      .map((chart) => chart.getAttribute('aria-label'));
  """)
  assert labels[0].startswith('Reward over step: AG-GRPO from ')
  bands = "return document.querySelectorAll('figure .band').length"
  assert browser.run(bands) > 0
  assert_quiet(browser, path)


def test_the_page_embeds_the_trajectories_as_escaped_json(page):
  text = page.read_text('utf-8')
  data = text.split('id="data">')[1].split('</script>')[0]
  assert '<' not in data and '\u2028' not in data and data.isascii()
  assert json.loads(data)['problems'][0]['samples'] == [BASE, FINAL]
