"""Wrong ways to join are refused; the right one is in test_processes.py."""

import pytest

from dllm_jax import errors
from dllm_jax.runtime import distributed


@pytest.mark.parametrize(
  'given, told',
  [
    ({'coordinator': 'host:80'}, '--num_processes, --process_id missing'),
    ({'num_processes': 2, 'process_id': 0}, '--coordinator missing'),
    ({'coordinator': 'host'}, "'host' is not HOST:PORT"),
    ({'coordinator': 'http://h:8'}, 'is not HOST:PORT'),
    (
      {'coordinator': 'h:1', 'num_processes': 2, 'process_id': 2},
      '--process_id 2 is not in 0..1',
    ),
    (
      {'coordinator': 'h:1', 'num_processes': 0, 'process_id': 0},
      '--num_processes 0 is below 1',
    ),
    ({'auto': True, 'heartbeat_seconds': 0}, '--heartbeat_seconds 0'),
  ],
)
def test_wrong_ways_to_join_are_refused(given, told):
  with pytest.raises(errors.UserError) as caught:
    distributed.start(distributed.ProcessConfig(**given))
  assert told in str(caught.value)
