"""The loop with a method of one addition: order, saves, stops, patience."""

import dataclasses
import io
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dllm_jax import errors
from dllm_jax.data import pipeline
from dllm_jax.runtime import console, sharding, signals, watchdog
from dllm_jax.state import checkpoint, metrics
from dllm_jax.train import loop, progress, skipping
from dllm_jax.train import state as state_lib
from tests import tiny_run

OPTIMIZER = optax.sgd(1.0)
CFG = loop.LoopConfig(
  num_steps=7, eval_every=0, patience=0, checkpoint_every=100
)
ROWS = [{'id': f'row{i}'} for i in range(10)]


@dataclasses.dataclass
class Adder:
  """w becomes 2 w + step + 1, and the steps are noted.

  Attributes:
    log: directory whose rows are counted at each `collect`.
    stop: is requested in the update of step `stop_at`.
    stop_at: see `stop`.
    bad: (inner step, metric) that is NaN in the steps `bad_at`; but for
      'policy/ratio_max' it makes the step one that is skipped.
    bad_at: see `bad`.
    inner: inner steps.
  """

  log: object = None
  stop: signals.StopRequest | None = None
  stop_at: int = -1
  bad: tuple[int, str] = (0, '')
  bad_at: tuple[int, ...] = ()
  inner: int = 1
  phase: str = 'rl'

  def __post_init__(self):
    self.collected, self.rows_seen = [], []

  def collect(self, state, rows, step):
    self.collected.append((step, [row['id'] for row in rows]))
    if self.log is not None:
      self.rows_seen.append(len(metrics.read(self.log)))
    return jnp.float32(step + 1), {'task/step': float(step)}

  def update(self, state, batch, step):
    if step == self.stop_at:
      self.stop.requested = True
    params = {'w': 2 * state.params['w'] + batch}
    new = state_lib.TrainState(state.step + 1, params, state.opt_state)
    history = [
      {
        'policy/loss': batch + j,
        'policy/grad_norm': batch * 0,
        'policy/skipped_updates': batch * 0,
      }
      for j in range(self.inner)
    ]
    if step in self.bad_at:
      inner, name = self.bad
      history[inner][name] = jnp.float32(jnp.nan)
      if name != 'policy/ratio_max':
        history[inner]['policy/skipped_updates'] += 1
        new = state
    return new, history


def weight_after(steps):
  w = 1.0
  for step in range(steps):
    w = 2 * w + step + 1
  return w


@dataclasses.dataclass
class Run:
  """A workdir and what came of it."""

  directory: object
  scores: list[float] | None = None
  adapters: bool = False

  def __post_init__(self):
    self.scored, self.stop = [], signals.StopRequest()
    self.screen = io.StringIO()

  def __call__(self, method, keep=100, floor=0.0, **changes):
    cfg = dataclasses.replace(CFG, **changes)
    checkpoints = checkpoint.Checkpoints(
      self.directory / 'checkpoints', max_to_keep=keep
    )
    params = {'w': jnp.float32(1.0)}
    if self.adapters:
      params['layer'] = {'lora_a': jnp.zeros(2)}
    log = metrics.MetricsLog(
      self.directory, resume_step={'rl': checkpoints.latest() or 0}
    )
    watch = watchdog.Watchdog(self.directory / 'watchdog.txt', seconds=0.0)
    try:
      return loop.run(
        method,
        state_lib.create(params, OPTIMIZER),
        pipeline.Batches(ROWS, seed=3, batch_size=4),
        title='toy',
        cfg=cfg,
        score=self._score,
        checkpoints=checkpoints,
        log=log,
        screen=console.Console(file=self.screen),
        stop=self.stop,
        watch=watch,
        skipped=self.directory / 'skipped',
        floor=floor,
      )
    finally:
      log.close()

  def _score(self, params):
    self.scored.append(float(params['w']))
    score = self.scores[len(self.scored) - 1] if self.scores else 0.5
    return {'eval/accuracy': score}

  def rows(self):
    return metrics.read(self.directory)

  def saved(self):
    found = (self.directory / 'checkpoints').glob('*/manifest.json')
    return sorted(int(path.parent.name) for path in found)


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path)


def steps_of(rows):
  return [row['step'] for row in rows]


def test_loop_runs_every_step_in_order(run):
  method = Adder()
  params, progress = run(method)
  assert float(params['w']) == weight_after(7)
  assert (progress.step, progress.finished) == (7, True)
  assert [step for step, _ in method.collected] == list(range(7))
  batches = pipeline.Batches(ROWS, seed=3, batch_size=4)
  for step, ids in method.collected:
    assert ids == [row['id'] for row in batches.rows(step)]
  assert run.saved() == [7]  # the end is saved whatever `checkpoint_every` says
  assert 'toy  7/7' in run.screen.getvalue()


def test_rows_are_written_once_in_order_one_step_later(run):
  method = Adder(log=run.directory, inner=3)
  (run.directory / metrics.METRICS_FILE).touch()
  run(method)
  # In step s the metrics of step s - 2 are there, those of s - 1 on their way.
  assert method.rows_seen == [0, 0, 1, 2, 3, 4, 5]
  rows = run.rows()
  assert steps_of(rows) == list(range(1, 8))
  for step, row in enumerate(rows):
    assert row['phase'] == 'rl'
    assert row['task/step'] == step
    # The first inner step, and the last.
    assert (row['policy/loss'], row['policy/last_loss']) == (step + 1, step + 3)
    assert row['time/step'] > row['time/collect'] >= 0


class Slow(Adder):
  """Its update is under way on the device for a while."""

  def update(self, state, batch, step):
    new, history = super().update(state, batch, step)
    zero = 0 * multiply(jnp.ones((300, 300)))[0, 0]
    return new._replace(params={'w': new.params['w'] + zero}), history


@jax.jit
def multiply(x):
  return jax.lax.fori_loop(0, 200, lambda _, y: y @ x / 300, x)


def test_time_of_an_update_counts_for_its_own_step(run):
  jax.block_until_ready(multiply(jnp.ones((300, 300))))
  began = time.perf_counter()
  jax.block_until_ready(multiply(jnp.ones((300, 300))))
  alone = time.perf_counter() - began
  run(Slow(), num_steps=3, eval_every=1, checkpoint_every=1)
  for row in run.rows():
    assert row['time/step'] > alone / 4
  assert min(row['time/eval'] for row in run.rows()) < alone / 4


def test_one_inner_step_logs_no_last_metrics(run):
  run(Adder())
  assert 'policy/last_loss' not in run.rows()[0]


@pytest.mark.parametrize('every, saved', [(1, [5, 6, 7]), (3, [3, 6, 7])])
def test_checkpoints_are_saved_every_n_steps(run, every, saved):
  run(Adder(), keep=3, checkpoint_every=every)
  assert run.saved() == saved


def test_rows_are_written_before_the_checkpoint_of_their_step(run, monkeypatch):
  seen = []
  save = checkpoint.Checkpoints.save

  def spy(self, step, state, meta):
    seen.append((step, steps_of(run.rows())[-1], meta['step']))
    save(self, step, state, meta)

  monkeypatch.setattr(checkpoint.Checkpoints, 'save', spy)
  run(Adder(), checkpoint_every=2)
  assert seen == [(2, 2, 2), (4, 4, 4), (6, 6, 6), (7, 7, 7)]


def test_finished_loop_runs_no_step(run):
  want, _ = run(Adder())
  method = Adder()
  got, progress = run(method)
  assert not method.collected and progress.finished
  tiny_run.assert_same(got, want)
  assert steps_of(run.rows()) == list(range(1, 8))


def test_evaluation_is_in_the_row_of_its_step(run):
  run(Adder(), eval_every=3)
  # The last step is evaluated whatever `eval_every` says.
  assert run.scored == [weight_after(3), weight_after(6), weight_after(7)]
  rows = [row for row in run.rows() if 'eval/accuracy' in row]
  assert steps_of(rows) == [3, 6, 7]
  assert all(row['time/eval'] >= 0 for row in rows)


def test_patience_stops_and_returns_the_best(tmp_path):
  run = Run(tmp_path, scores=[0.1, 0.5, 0.5, 0.4])
  params, progress = run(Adder(), num_steps=100, eval_every=2, patience=2)
  # A tie is not better; two evaluations after that of step 4 are enough.
  assert float(params['w']) == weight_after(4)
  assert progress.best_step == 4 and progress.best_score == 0.5
  assert (progress.step, progress.stale, progress.finished) == (8, 2, True)
  assert steps_of(run.rows()) == list(range(1, 9))
  again, _ = run(Adder(), num_steps=100, eval_every=2, patience=2)
  tiny_run.assert_same(again, params)


def test_patience_returns_the_best_at_the_end(tmp_path):
  run = Run(tmp_path, scores=[0.9, 0.1, 0.2, 0.3])
  params, progress = run(Adder(), eval_every=2, patience=5)
  assert float(params['w']) == weight_after(2)
  assert progress.step == 7


FLOOR = {'floor': 0.4, 'num_steps': 20, 'eval_every': 2, 'floor_patience': 3}


def test_floor_patience_stops_a_collapse_and_returns_the_best(tmp_path):
  run = Run(tmp_path, scores=[0.5, 0.3, 0.45, 0.39, 0.1, 0.2, 0.9])
  params, progress = run(Adder(), **FLOOR)
  assert (progress.step, progress.below, progress.best_step) == (12, 3, 2)
  assert float(params['w']) == weight_after(2)
  said = ' '.join(run.screen.getvalue().split())
  assert 'ended at step 12 of 20 with its last 3 evaluation(s) below' in said
  assert 'kept step 2 (0.500)' in said
  again, _ = run(Adder(), **FLOOR)
  assert float(again['w']) == weight_after(2)
  cfg = dataclasses.replace(CFG, num_steps=20, eval_every=2, floor_patience=3)
  assert loop.kept_step(progress, cfg) == 2


def test_floor_patience_survives_a_restart(tmp_path):
  scores = [0.5, 0.3, 0.45, 0.39, 0.1, 0.2]
  run = Run(tmp_path, scores=scores)
  with pytest.raises(loop.Interrupted):
    run(Adder(stop=run.stop, stop_at=9), **FLOOR)  # one evaluation below
  again = Run(tmp_path, scores=scores[5:])
  params, progress = again(Adder(), **FLOOR)
  assert (progress.step, progress.below, progress.best_step) == (12, 3, 2)
  assert float(params['w']) == weight_after(2)


class Sure(Adder):
  """Its rollouts become surer with every step."""

  def collect(self, state, rows, step):
    batch, host = super().collect(state, rows, step)
    return batch, host | {'rollout/confidence': 0.5 + 0.01 * step}


@pytest.mark.parametrize(
  'method, scores, said',
  [
    (Sure, [0.5, 0.4, 0.3, 0.35, 0.34, 0.31], [6, 12]),
    (Sure, [0.5, 0.5, 0.4, 0.6, 0.5, 0.5], []),
    (Sure, [0.5, 0.49, 0.46, 0.9, 0.9, 0.9], []),
    (Adder, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], []),
  ],
)
def test_overconfidence_is_said(tmp_path, method, scores, said):
  schedule = {'num_steps': 12, 'eval_every': 2}
  run = Run(tmp_path, scores=scores)
  with pytest.raises(loop.Interrupted):
    run(method(stop=run.stop, stop_at=4), **schedule)  # two evaluations
  again = Run(tmp_path, scores=scores[2:])
  again.screen = run.screen
  again(method(), **schedule)
  text = ' '.join(run.screen.getvalue().split())
  steps = re.findall(r'step (\d+): confidence rises', text)
  assert list(map(int, steps)) == said
  if said:
    assert '(0.510 to 0.550) while validation accuracy falls (0.500' in text


def test_loop_above_its_floor_returns_the_last(tmp_path):
  run = Run(tmp_path, scores=[0.5, 0.3, 0.4] + [0.41] * 7)
  params, progress = run(Adder(), **FLOOR)
  assert (progress.step, progress.below) == (20, 0)
  assert float(params['w']) == weight_after(20)
  assert 'below' not in run.screen.getvalue()


def test_a_score_equal_to_the_floor_is_not_below_it(tmp_path):
  run = Run(tmp_path, scores=[0.4] * 10)
  params, progress = run(Adder(), **FLOOR)
  assert (progress.step, progress.below) == (20, 0)
  assert float(params['w']) == weight_after(20)


class Relaying(Adder):
  """Its update leaves the weight on all devices; it began on two of them."""

  def update(self, state, batch, step):
    self.seen.append(state.params['w'].sharding)
    new, history = super().update(state, batch, step)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), 'x')
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(new, everywhere), history


def test_every_update_begins_with_the_layout_of_the_first(run):
  method = Relaying()
  method.seen = []
  run(method)
  assert len(method.seen) == 7 and len(set(method.seen)) == 1


def test_loop_never_above_its_floor_returns_the_initial(tmp_path):
  run = Run(tmp_path, scores=[0.1] * 3)
  params, progress = run(Adder(), **FLOOR)
  assert (progress.step, progress.best_step) == (6, 0)
  assert float(params['w']) == 1.0


def test_patience_survives_a_restart(tmp_path):
  run = Run(tmp_path, scores=[0.3, 0.2, 0.1])
  setting = {'num_steps': 100, 'eval_every': 2, 'patience': 2}
  with pytest.raises(loop.Interrupted):
    run(Adder(stop=run.stop, stop_at=4), **setting)
  run.stop.requested = False
  params, progress = run(Adder(), **setting)
  assert progress.step == 6 and float(params['w']) == weight_after(2)


def test_stop_request_saves_after_the_step(run):
  method = Adder(stop=run.stop, stop_at=3)
  with pytest.raises(loop.Interrupted):
    run(method)
  assert method.collected[-1][0] == 3
  assert run.saved() == [4] and steps_of(run.rows()) == [1, 2, 3, 4]
  run.stop.requested = False
  method = Adder()
  params, progress = run(method)
  assert [step for step, _ in method.collected] == [4, 5, 6]
  assert float(params['w']) == weight_after(7)
  assert steps_of(run.rows()) == list(range(1, 8))
  assert progress.seconds > progress.train_seconds > 0


def test_stop_request_in_the_last_step_finishes_the_loop(run):
  params, progress = run(Adder(stop=run.stop, stop_at=6))
  assert progress.finished and float(params['w']) == weight_after(7)


def test_check_stop_raises_if_requested(run):
  loop.check_stop(run.stop)
  run.stop.requested = True
  with pytest.raises(loop.Interrupted):
    loop.check_stop(run.stop)


def test_train_seconds_exclude_evaluation_and_saving_over_restarts(
  run, monkeypatch
):
  now = 0.0
  monkeypatch.setattr(loop.time, 'perf_counter', lambda: now)

  def takes(seconds, function):
    def timed(*args):
      nonlocal now
      now += seconds
      return function(*args)

    return timed

  def timed_run(method):
    method.collect = takes(1, method.collect)
    method.update = takes(2, method.update)
    return run(method, eval_every=3, checkpoint_every=2)

  run._score = takes(10, run._score)
  monkeypatch.setattr(
    checkpoint.Checkpoints, 'save', takes(100, checkpoint.Checkpoints.save)
  )
  with pytest.raises(loop.Interrupted):
    timed_run(Adder(stop=run.stop, stop_at=2))
  run.stop.requested = False
  _, progress = timed_run(Adder())
  assert progress.step == 7
  assert progress.train_seconds == 7 * 3
  # Evaluations after steps 3, 6 and 7; saves after 2, 3, 4, 6 and 7, of which
  # those that end a run do not count themselves.
  assert progress.seconds == 7 * 3 + 3 * 10 + 3 * 100


def test_progress_reads_records_of_earlier_versions():
  old = {'step': 3, 'seconds': 5.0, 'cpu_seconds': 9.0, 'finished': True}
  expected = progress.Progress(
    step=3, seconds=5.0, train_seconds=5.0, finished=True
  )
  assert progress.Progress.from_record(old) == expected
  new = progress.Progress(step=3, seconds=5.0, train_seconds=4.0)
  record = dataclasses.asdict(new)
  assert progress.Progress.from_record(record) == new
  assert progress.Progress.from_record({}) == progress.Progress()


@pytest.mark.parametrize(
  'inner, name',
  [(0, 'policy/loss'), (0, 'policy/grad_norm'), (1, 'policy/loss')],
)
def test_skipped_steps_are_counted_and_their_batches_written(run, inner, name):
  method = Adder(bad=(inner, name), bad_at=(1, 4), inner=2)
  params, progress = run(method)
  assert (progress.step, progress.skipped) == (7, 2)
  assert progress.skipped_in_a_row == 0
  counts = [row['policy/skipped_updates'] for row in run.rows()]
  assert counts == [0, 1, 0, 0, 1, 0, 0]
  rows = run.rows()[4]
  logged = name if inner == 0 else 'policy/last_loss'
  assert jnp.isnan(rows[logged]) and 'policy/last_skipped_updates' not in rows
  files = sorted((run.directory / 'skipped').iterdir())
  assert [path.name for path in files] == ['rl-2.npz', 'rl-5.npz']
  with np.load(files[1], allow_pickle=False) as kept:
    assert kept['batch'] == 5.0
    assert kept['row_ids'].tolist() == method.collected[4][1]
  said = ' '.join(run.screen.getvalue().split())
  assert 'rl step 5: 1 update(s) not finite and skipped; batch written to' in (
    said
  )


def test_ten_skipped_steps_in_a_row_stop_the_run(run):
  method = Adder(bad=(0, 'policy/loss'), bad_at=tuple(range(4, 30)))
  for _ in range(2):  # the same command stops at the same place
    with pytest.raises(errors.UserError) as caught:
      run(method, num_steps=30, checkpoint_every=3)
    line = str(caught.value)
    assert 'rl step 14: ' in line and 'in the last 10 steps' in line
    assert '\n' not in line
    # What is saved is what the last good update made.
    assert run.saved() == [3, 6, 9, 12]
    assert steps_of(run.rows()) == list(range(1, 14))
    assert len(list((run.directory / 'skipped').iterdir())) == 10


def test_large_share_of_skipped_steps_stops_the_run(run):
  every_third = tuple(range(0, 40, 3))
  method = Adder(bad=(0, 'policy/loss'), bad_at=every_third)
  with pytest.raises(errors.UserError, match='rl step 31: .* in 11 of 31'):
    run(method, num_steps=40)


def test_skipped_steps_are_counted_over_restarts(run):
  method = Adder(bad=(0, 'policy/loss'), bad_at=tuple(range(2, 30)))
  method.stop, method.stop_at = run.stop, 6
  with pytest.raises(loop.Interrupted):
    run(method, num_steps=30)
  run.stop.requested = False
  with pytest.raises(errors.UserError, match='step 12: .* the last 10 steps'):
    run(Adder(bad=method.bad, bad_at=method.bad_at), num_steps=30)


@pytest.mark.parametrize('step, stops', [(1099, True), (1100, False)])
def test_one_percent_of_skipped_steps_is_allowed(tmp_path, step, stops):
  this = skipping.Step(tmp_path, 'rl', step, (), {})
  history = [{'policy/skipped_updates': 1.0}]
  counts = progress.Progress(skipped=10)
  if stops:
    with pytest.raises(errors.UserError, match='in 11 of 1099 steps'):
      skipping.judge(counts, history, this, print)
  else:
    skipping.judge(counts, history, this, print)
    assert (counts.skipped, counts.skipped_in_a_row) == (11, 1)


def test_batches_of_at_most_max_kept_steps_are_written(tmp_path, monkeypatch):
  """Each with a file of every process."""
  monkeypatch.setattr(skipping, 'MAX_KEPT', 2)
  batch = {'x': jnp.ones(2, jnp.bfloat16), 'n': np.int32(3)}
  keep = lambda step: skipping.keep(
    skipping.Step(tmp_path, 'rl', step, (), batch)
  )
  path = keep(1)
  for process in range(1, 4):
    (tmp_path / f'rl-1-{process}.npz').touch()
  assert keep(2) == tmp_path / 'rl-2.npz'
  assert keep(3) is None
  assert keep(1) == path
  with np.load(path) as kept:
    assert kept['x'].tolist() == [1.0, 1.0] and kept['n'] == 3


def test_unwritable_batch_does_not_end_the_run(run):
  (run.directory / 'skipped').touch()
  _, progress = run(Adder(bad=(0, 'policy/loss'), bad_at=(2,)))
  assert (progress.step, progress.skipped) == (7, 1)
  assert 'the batch could not be written: ' in run.screen.getvalue()


def test_nan_means_are_not_logged(run):
  run(Adder(bad=(0, 'policy/ratio_max'), bad_at=(2,)))
  assert 'policy/ratio_max' not in run.rows()[2]


def test_loop_of_0_steps_returns_the_initial(run):
  params, progress = run(Adder(), num_steps=0)
  assert float(params['w']) == 1.0 and progress.step == 0


class Adapting:
  """The adapter grows by 1 a step, and what is donated is gone."""

  phase = 'rl'

  def collect(self, state, rows, step):
    return None, {}

  def update(self, state, batch, step):
    moving, frozen = state_lib.without_frozen(state)
    params = jax.tree.map(lambda x: x + 1, moving.params)
    jax.tree.map(lambda x: x.delete(), moving.params)
    new = moving._replace(step=moving.step + 1, params=params)
    one = jnp.float32(1)
    metrics = {'policy/loss': one, 'policy/grad_norm': one}
    return state_lib.with_frozen(new, frozen), [metrics]


def test_frozen_parameters_are_not_saved(run):
  run.adapters, run.scores = True, [0.5, 0.9, 0.1]
  plan = {'eval_every': 1, 'patience': 5, 'num_steps': 3}
  params, _ = run(Adapting(), **plan)
  assert float(params['w']) == 1.0
  assert params['layer']['lora_a'].tolist() == [2, 2]  # the best
  saved = tiny_run.kept(run.directory / 'checkpoints' / '3')
  assert {k: v.tolist() for k, v in saved.items() if 'lora_a' in k} == {
    'train.params.layer.lora_a': [3, 3],
    'best.layer.lora_a': [2, 2],
  }
  assert not any('.w' in name for name in saved)
  again, _ = run(Adapting(), **plan)
  tiny_run.assert_same(again, params)


def test_on_one_mesh_replicates_scalars(run):
  """Else a restored state would lie partly on the first device alone."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2))
  params = jax.device_put({'w': jnp.float32(1)}, sharding.replicated(mesh))
  placed = progress.on_one_mesh(state_lib.create(params, optax.adam(1.0)))
  assert {
    len(leaf.sharding.device_set) for leaf in jax.tree.leaves(placed)
  } == {2}


@pytest.mark.parametrize(
  'wrong, line',
  [
    ({'num_steps': -1}, 'num_steps -1'),
    ({'eval_every': -1}, 'eval_every -1'),
    ({'patience': -1}, 'patience -1'),
    ({'patience': 2}, 'patience and floor_patience need eval_every'),
    ({'floor_patience': 1}, 'patience and floor_patience need eval_every'),
    ({'checkpoint_every': 0}, 'checkpoint.every 0 is below 1'),
  ],
)
def test_loop_config_refuses_bad_values(wrong, line):
  with pytest.raises(ValueError, match=line):
    dataclasses.replace(CFG, **wrong)


def test_toy_method_satisfies_the_protocol():
  assert isinstance(Adder(), loop.Method)
