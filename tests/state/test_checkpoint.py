"""Checkpoints: the same bits back, all or nothing, damage never silent."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dllm_jax import errors
from dllm_jax.state import checkpoint, manifest


class State(NamedTuple):
  step: jax.Array
  params: dict
  opt_state: tuple
  key: jax.Array
  nothing: None


def make_state(seed, *, width=4):
  keys = jax.random.split(jax.random.key(seed), 4)
  params = {
    'layers': {'kernel': jax.random.normal(keys[0], (3, 8, width))},
    'embed': jax.random.normal(keys[1], (8, width)).astype(jnp.bfloat16),
    'count': jnp.arange(5, dtype=jnp.int32) + seed,
    'odd': jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45]),
  }
  weights = {k: params[k] for k in ('layers', 'embed')}
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  opt_state = optimizer.init(weights)
  _, opt_state = optimizer.update(weights, opt_state, weights)
  return State(jnp.int32(seed), params, opt_state, keys[2:], None)


def bits(tree):
  def one(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())

  return jax.tree.structure(tree), [one(x) for x in jax.tree.leaves(tree)]


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.mark.parametrize('like', [lambda state: state, abstract])
def test_the_same_bits_come_back(tmp_path, like):
  state = make_state(7)
  want = bits(state)
  ckpt = checkpoint.Checkpoints(tmp_path / 'c', max_to_keep=2)
  assert ckpt.latest() is None
  ckpt.save(3, state, {'cursor': [1, 2], 'text': 'π'})
  again = checkpoint.Checkpoints(tmp_path / 'c', max_to_keep=2)
  assert again.latest() == 3
  restored, meta = restore(again, 3, like(make_state(0)))
  assert bits(restored) == want
  assert isinstance(restored, State)
  assert meta == {'cursor': [1, 2], 'text': 'π'}


def restore(ckpt, step, like):
  """(state, meta) of one step, which must be whole."""
  path = ckpt._directory / str(step)
  checkpoint._check(path, like)
  return checkpoint._load(path, like)


def test_leaves_go_where_their_shardings_say(tmp_path):
  value = jnp.arange(32.0).reshape(8, 4)
  meshes = [
    jax.make_mesh((n,), ('data',), axis_types=(AxisType.Auto,)) for n in (8, 2)
  ]
  saved = jax.device_put(value, NamedSharding(meshes[0], P('data')))
  ckpt = checkpoint.Checkpoints(tmp_path / 'p', max_to_keep=1)
  ckpt.save(1, {'w': saved}, {})
  target = NamedSharding(meshes[1], P(None, 'data'))
  like = {'w': jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=target)}
  restored, _ = ckpt.restore_newest(like, print)
  assert restored['w'].sharding == target
  np.testing.assert_array_equal(restored['w'], value)


def save_small(directory, steps, **kwargs):
  ckpt = checkpoint.Checkpoints(directory, **{'max_to_keep': 3, **kwargs})
  for step in steps:
    ckpt.save(step, {'a': {'w': jnp.full((64,), step)}}, {'step': step})
  return ckpt


LIKE = {'a': {'w': jax.ShapeDtypeStruct((64,), jnp.int32)}}


def test_the_newest_are_kept(tmp_path):
  ckpt = save_small(tmp_path, [1, 5, 20, 100], max_to_keep=2)
  assert ckpt.latest() == 100
  assert sorted(os.listdir(tmp_path)) == ['100', '20']
  assert restore(ckpt, 20, LIKE)[1] == {'step': 20}


def files_of(directory):
  return sorted(p for p in directory.rglob('*') if p.is_file())


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def zero_page(path):
  with path.open('r+b') as file:
    file.write(bytes(min(4096, path.stat().st_size)))


@pytest.mark.parametrize(
  'damage', [flip, truncate, zero_page, pathlib.Path.unlink]
)
def test_damage_to_any_file_is_found_and_the_older_step_used(tmp_path, damage):
  ckpt = save_small(tmp_path, [4, 10])
  assert ckpt.restore_newest(LIKE, print)[1] == {'step': 10}
  # Orbax leaves empty files too: they cannot be cut or flipped.
  names = [
    path.relative_to(tmp_path / '10')
    for path in files_of(tmp_path / '10')
    if path.stat().st_size or damage is pathlib.Path.unlink
  ]
  assert len(names) > 6
  for name in names:
    path = tmp_path / '10' / name
    whole = path.read_bytes()
    damage(path)
    said = []
    with pytest.raises(errors.UserError) as caught:
      restore(ckpt, 10, LIKE)
    message = str(caught.value)
    assert f'{tmp_path}/10 is damaged: {name} ' in message
    assert 'remove' in message and '\n' not in message
    state, meta = ckpt.restore_newest(LIKE, said.append)
    assert meta == {'step': 4} and (state['a']['w'] == 4).all()
    assert len(said) == 1 and '\n' not in said[0]
    assert f'{tmp_path}/10 is damaged: {name} ' in said[0]
    assert 'kept as 10.damaged, going on from step 4' in said[0]
    # It is as it was but for its name, and nobody reads it any more.
    assert sorted(os.listdir(tmp_path)) == ['10.damaged', '4']
    assert ckpt.latest() == 4
    (tmp_path / '10.damaged').rename(tmp_path / '10')
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
  assert ckpt.restore_newest(LIKE, print)[1] == {'step': 10}


@pytest.mark.parametrize('name', ['manifest.json', 'meta.json'])
def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path, name):
  ckpt = save_small(tmp_path, [4, 10])
  path = tmp_path / '10' / name
  whole = path.read_bytes()
  path.unlink()
  path.symlink_to('/proc/self/mem')  # its bytes are an input/output error
  for read in (
    lambda: ckpt.restore_newest(LIKE, print),
    lambda: restore(ckpt, 10, LIKE),
  ):
    with pytest.raises(errors.UserError) as caught:
      read()
    assert not isinstance(caught.value, manifest.Damaged)
    line = f'{tmp_path}/10 cannot be read: {name}: Input/output error; nothing'
    assert line in str(caught.value)
  assert sorted(os.listdir(tmp_path)) == ['10', '4']
  path.unlink()
  path.write_bytes(whole)
  assert ckpt.restore_newest(LIKE, print)[1] == {'step': 10}


def test_every_damaged_step_is_set_aside_and_the_last_is_an_error(tmp_path):
  ckpt = save_small(tmp_path, [4, 10, 11])
  for step in (4, 10, 11):
    flip(tmp_path / str(step) / 'meta.json')
  said = []
  with pytest.raises(errors.UserError, match='no whole checkpoint is left'):
    ckpt.restore_newest(LIKE, said.append)
  assert [line.rpartition(', ')[2] for line in said] == [
    'going on from step 10',
    'going on from step 4',
    'none is left',
  ]
  assert len(files_of(tmp_path)) > 20  # nothing is thrown away
  # The run goes on, and the same step is damaged again.
  assert ckpt.restore_newest(LIKE, said.append) is None
  save_small(tmp_path, [4])
  (tmp_path / '4' / 'manifest.json').unlink()
  with pytest.raises(errors.UserError):
    ckpt.restore_newest(LIKE, said.append)
  assert {'4.damaged', '4.damaged2'} <= set(os.listdir(tmp_path))


def test_another_model_is_not_damage(tmp_path):
  ckpt = save_small(tmp_path, [4, 10])
  like = {'a': {'w': jax.ShapeDtypeStruct((32,), jnp.int32)}}
  with pytest.raises(errors.UserError, match='holds another model'):
    ckpt.restore_newest(like, print)
  assert sorted(os.listdir(tmp_path)) == ['10', '4']


def test_a_manifest_that_was_edited_is_found(tmp_path):
  """Whole JSON, and right digests of all files, but another shape."""
  ckpt = save_small(tmp_path, [4, 10])
  path = tmp_path / '10' / 'manifest.json'
  whole = path.read_text()
  path.write_text(whole.replace('64', '65', 1))
  with pytest.raises(errors.UserError, match='manifest.json is not as it was'):
    restore(ckpt, 10, LIKE)
  other = whole.replace('"sha256"', '"sha257"')
  for text in ('[]', '{"leaves": {}, "files": {}}', whole[:40], '', other):
    path.write_text(text)
    with pytest.raises(errors.UserError, match='manifest.json.*an older one'):
      restore(ckpt, 10, LIKE)


def test_a_kill_while_old_steps_are_removed_leaves_whole_ones(
  tmp_path, monkeypatch
):
  def killed(path):
    flip(files_of(path)[0])
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint.shutil, 'rmtree', killed)
  monkeypatch.setattr(checkpoint, '_write', spared(checkpoint._write))
  with pytest.raises(KeyboardInterrupt):
    save_small(tmp_path, [1, 2, 3], max_to_keep=2)
  assert sorted(os.listdir(tmp_path)) == ['1.partial', '2', '3']
  ckpt = checkpoint.Checkpoints(tmp_path, max_to_keep=2)
  assert restore(ckpt, 2, LIKE)[1] == {'step': 2}


def spared(write, rmtree=checkpoint.shutil.rmtree):
  """The same with the real rmtree."""

  def act(*args):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(checkpoint.shutil, 'rmtree', rmtree)
      write(*args)

  return act


def test_a_finished_step_is_not_overwritten(tmp_path):
  ckpt = save_small(tmp_path, [10])
  with pytest.raises(errors.UserError, match='already exists'):
    save_small(tmp_path, [10])
  assert restore(ckpt, 10, LIKE)[1] == {'step': 10}


def test_a_missing_step_is_an_error(tmp_path):
  ckpt = save_small(tmp_path, [10])
  with pytest.raises(errors.UserError, match='no checkpoint .*/11'):
    restore(ckpt, 11, LIKE)


@pytest.mark.parametrize(
  'like, message',
  [
    (
      {'a': {'w': jax.ShapeDtypeStruct((32,), jnp.int32)}},
      r'a.w is int32\[64\] there and int32\[32\] here',
    ),
    (
      {'a': {'w': jax.ShapeDtypeStruct((64,), jnp.float32)}},
      r'a.w is int32\[64\] there and float32\[64\] here',
    ),
    (
      {'a': {'w': LIKE['a']['w'], 'b': LIKE['a']['w']}},
      'a.b is in the program alone',
    ),
    ({'a': {}}, 'a.w is in the checkpoint alone'),
  ],
)
def test_another_model_is_refused_naming_the_leaf(tmp_path, like, message):
  ckpt = save_small(tmp_path, [10])
  with pytest.raises(errors.UserError, match=message):
    restore(ckpt, 10, like)


@pytest.mark.parametrize('leaf', [np.int64(3), 3, np.ones(2), jnp.ones((0, 3))])
def test_leaves_that_would_not_come_back_are_refused(tmp_path, leaf):
  ckpt = checkpoint.Checkpoints(tmp_path, max_to_keep=1)
  with pytest.raises(TypeError, match='leaf a.b'):
    ckpt.save(0, {'a': {'b': leaf}}, {})
  assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path):
  (tmp_path / 'file').touch()
  ckpt = checkpoint.Checkpoints(tmp_path / 'file', max_to_keep=1)
  with pytest.raises(errors.UserError, match='cannot write checkpoint'):
    ckpt.save(0, {'a': jnp.ones(2)}, {})


def test_a_full_disk_is_one_line_and_the_last_step_stays(tmp_path):
  """A limit on the size of a file stands in for the full disk."""
  code = f"""
    import resource
    import jax, jax.numpy as jnp
    from dllm_jax import errors
    from dllm_jax.state import checkpoint
    ckpt = checkpoint.Checkpoints({str(tmp_path)!r}, max_to_keep=2)
    ckpt.save(1, {{'w': jnp.ones((4,))}}, {{}})
    big = {{'w': jax.random.normal(jax.random.key(0), (200_000,))}}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
      ckpt.save(2, big, {{}})
    except errors.UserError as e:
      print(e)
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'cannot write checkpoint' in done.stdout
  assert 'File too large' in done.stdout
  assert done.stdout.count('\n') == 1 and done.stderr == ''
  assert os.listdir(tmp_path) == ['1']


def test_writes_that_fail_after_the_first_are_not_printed(tmp_path):
  """Orbax writes leaves side by side; on a full disk each fails, some late."""
  code = f"""
    import gc, resource
    import jax.numpy as jnp
    from dllm_jax import errors
    from dllm_jax.state import checkpoint
    many = {{f'w{{i}}': jnp.ones((1000, 100 + i)) for i in range(20)}}
    ckpt = checkpoint.Checkpoints({str(tmp_path / 'c')!r}, max_to_keep=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    for step in range(10):
      try:
        ckpt.save(step, many, {{}})
      except errors.UserError as e:
        print(e)
      gc.collect()
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert (done.stdout.count('File too large'), done.stderr) == (10, '')


FULL = """
  import sys
  import jax, jax.numpy as jnp
  from dllm_jax import errors
  from dllm_jax.state import checkpoint
  jax.config.update('jax_platforms', 'cpu')
  ckpt = checkpoint.Checkpoints(sys.argv[1], max_to_keep=9)
  state = {'w': jax.random.normal(jax.random.key(0), (200_000,))}  # 0.8 MB
  for step in range(1, 9):
    if sys.argv[2] == 'blind':
      checkpoint.Checkpoints._check_room = lambda *args: None
    try:
      ckpt.save(step, state, {})
    except errors.UserError as e:
      print(step, e)
      break
  like = {'w': jax.ShapeDtypeStruct((200_000,), jnp.float32)}
  restored, _ = ckpt.restore_newest(like, print)
  assert (restored['w'] == state['w']).all()
"""


@pytest.mark.parametrize(
  'how, line',
  [('looks', 'no room for checkpoint'), ('blind', 'No space left on device')],
)
def test_a_full_disk_is_noticed_and_room_made_goes_on(mounted, how, line):
  """Before the save, or in it, where others fill the disk meanwhile."""
  place = mounted('size=4m')
  # Another's file: three checkpoints fit beside it.
  (place / 'ballast').write_bytes(bytes(10**6))

  def save_until_full():
    return subprocess.run(
      [sys.executable, '-c', textwrap.dedent(FULL), place / 'c', how],
      capture_output=True,
      text=True,
      check=False,
      env=os.environ | {'XLA_FLAGS': ''},
    )

  done = save_until_full()
  assert (done.returncode, done.stderr) == (0, '')
  assert line in done.stdout and done.stdout.count('\n') == 1
  saved = sorted(os.listdir(place / 'c'))
  step = int(done.stdout.split()[0])
  assert saved == [str(s) for s in range(1, step)] and step > 1
  (place / 'ballast').unlink()
  for old in saved[:-1]:
    subprocess.run(['rm', '-r', place / 'c' / old], check=True)
  ckpt = checkpoint.Checkpoints(place / 'c', max_to_keep=2)
  ckpt.save(step, {'w': jnp.zeros((200_000,))}, {})
  assert ckpt.latest() == step


def test_the_first_checkpoint_needs_its_own_size(tmp_path, monkeypatch):
  free = checkpoint.shutil._ntuple_diskusage(10**9, 0, 255)
  monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda path: free)
  with pytest.raises(errors.UserError, match='no room for checkpoint'):
    save_small(tmp_path / 'c', [1])  # 64 int32
  assert not (tmp_path / 'c').exists()
  enough = free._replace(free=256)
  monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda path: enough)
  save_small(tmp_path / 'c', [1])
  with pytest.raises(errors.UserError, match='c/2: it needs 0'):
    save_small(tmp_path / 'c', [2])
  assert os.listdir(tmp_path / 'c') == ['1']


def test_later_checkpoints_need_twice_the_last_one(tmp_path, monkeypatch):
  """For the files of Orbax and their copy, which is what a save takes."""
  save_small(tmp_path / 'c', [1])
  size = sum(p.stat().st_size for p in (tmp_path / 'c/1').rglob('*'))
  disk = lambda free: checkpoint.shutil._ntuple_diskusage(10**9, 0, free)
  monkeypatch.setattr(
    checkpoint.shutil, 'disk_usage', lambda path: disk(2 * size - 1)
  )
  with pytest.raises(errors.UserError, match='no room for checkpoint'):
    save_small(tmp_path / 'c', [2])
  monkeypatch.setattr(
    checkpoint.shutil, 'disk_usage', lambda path: disk(2 * size)
  )
  save_small(tmp_path / 'c', [2])
  assert sorted(os.listdir(tmp_path / 'c')) == ['1', '2']


@pytest.mark.parametrize(
  'num_kills', [3, pytest.param(20, marks=pytest.mark.slow)]
)
def test_kills_in_the_middle_of_saves_leave_whole_checkpoints(
  tmp_path, num_kills
):
  """Each process goes on from the last and is killed at another moment."""
  code = f"""
    import sys
    import jax, jax.numpy as jnp
    from dllm_jax.state import checkpoint
    ckpt = checkpoint.Checkpoints({str(tmp_path)!r}, max_to_keep=2)
    step = ckpt.latest()
    if step is not None:
      like = {{'w': jax.ShapeDtypeStruct((200_000,), jnp.int32)}}
      state, meta = ckpt.restore_newest(like, print)
      assert meta == {{'step': step}} and (state['w'] == step).all()
    step = -1 if step is None else step
    print('ready', step, flush=True)
    while True:
      step += 1
      ckpt.save(step, {{'w': jnp.full((200_000,), step)}}, {{'step': step}})
      print(step, flush=True)
  """
  environment = os.environ | {'XLA_FLAGS': ''}
  seen = []
  for kill in range(num_kills):
    with subprocess.Popen(
      [sys.executable, '-c', textwrap.dedent(code)],
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    ) as process:
      line = process.stdout.readline().split()
      assert line[:1] == ['ready'], 'the last kill left something unreadable'
      seen.append(int(line[1]))
      assert int(process.stdout.readline()) == seen[-1] + 1
      time.sleep(0.037 * (kill % 10))
      process.send_signal(signal.SIGKILL)
  assert seen == sorted(seen) and seen[-1] > 0
  # A kill may leave one that was about to be moved into place, or removed.
  finished = [p for p in tmp_path.iterdir() if p.suffix != checkpoint.PARTIAL]
  assert 1 <= len(finished) <= 3
  for path in finished:
    manifest = json.loads((path / 'manifest.json').read_text())
    assert manifest['leaves'] == {'w': [[200_000], 'int32']}
