"""The table of metrics: names, titles, units, and where each is shown.

A row of metrics.jsonl holds these names and no others, except for names that a
task chooses, which have groups of their own. The report's charts, the live
line of a run and the names in TensorBoard follow from this table.
"""

from typing import NamedTuple


class Metric(NamedTuple):
  """What a logged number is.

  Attributes:
    title: in words; a legend shows what follows its last comma.
    unit: such as 'nats' or 'tokens'; 'share' is a fraction in [0, 1].
  """

  title: str
  unit: str = ''

  @property
  def legend(self) -> str:
    """The name in the legend of a chart."""
    return self.title.rpartition(', ')[2]


class Chart(NamedTuple):
  """A chart of learning curves in the report.

  Attributes:
    title: heading of the chart.
    names: metrics, all of one unit; comparisons of runs show the first.
    note: explanation under the chart.
    phase: phase of the rows that are drawn.
  """

  title: str
  names: tuple[str, ...]
  note: str = ''
  phase: str = 'rl'


# Groups whose names a task chooses: its reward terms and its other metrics in
# training, and the means of both in evaluations.
OPEN_GROUPS = ('terms', 'task', 'eval_task', 'method')
# Begins the name of a metric of the last inner step of an update.
LAST = 'last_'

METRICS = {
  'reward/mean': Metric('reward'),
  'reward/correct': Metric('right answers', 'share'),
  'reward/not_finite': Metric('rows without a finite reward', 'share'),
  'group/zero_variance': Metric('groups without variance', 'share'),
  'group/failed': Metric('groups without a right answer-free row', 'share'),
  'rollout/length': Metric('completion length', 'tokens'),
  'rollout/num_steps': Metric('denoising steps', 'steps'),
  'rollout/tokens_per_step': Metric('tokens per step', 'tokens'),
  'rollout/confidence': Metric('confidence at commitment', 'share'),
  'rollout/has_eos': Metric('completions that end', 'share'),
  'rollout/leaked_gold': Metric('gold answer in the reasoning', 'share'),
  'rollout/guided_fraction': Metric('guided rows', 'share'),
  'rollout/tokens': Metric('completion tokens of a batch', 'tokens'),
  'free/mean': Metric('reward, answer-free'),
  'free/correct': Metric('right answers, answer-free', 'share'),
  'free/length': Metric('completion length, answer-free', 'tokens'),
  'free/leaked_gold': Metric(
    'gold answer in the reasoning, answer-free', 'share'
  ),
  'guided/mean': Metric('reward, guided'),
  'guided/correct': Metric('right answers, guided', 'share'),
  'guided/length': Metric('completion length, guided', 'tokens'),
  'guided/leaked_gold': Metric('gold answer in the reasoning, guided', 'share'),
  'policy/loss': Metric('loss'),
  'policy/grad_norm': Metric('gradient norm'),
  'policy/skipped_updates': Metric('updates that were not finite', 'updates'),
  'policy/ratio_mean': Metric('importance ratio, mean'),
  'policy/ratio_max': Metric('importance ratio, maximum'),
  'policy/clip_fraction': Metric('clip fraction', 'share'),
  'policy/kl': Metric('KL to the base, answer-free', 'nats per token'),
  'policy/kl_guided': Metric('KL to the base, guided', 'nats per token'),
  'policy/entropy': Metric('entropy', 'nats'),
  'policy/logp': Metric('log-probability', 'nats'),
  'policy/credited_tokens': Metric('credited tokens', 'tokens'),
  'policy/sampler_gap': Metric('sampler-to-learner gap, answer-free', 'nats'),
  'policy/sampler_gap_p99': Metric('the same, 99th percentile', 'nats'),
  'policy/sampler_ess': Metric(
    'effective sample size of rollouts weighted by the gap', 'share'
  ),
  'policy/sampler_gap_guided': Metric('sampler-to-learner gap, guided', 'nats'),
  'credit/auc': Metric('path credit, area under the rewards'),
  'credit/push': Metric('path credit, mean push'),
  'credit/z': Metric('z-score of the area, mean'),
  'credit/z_abs': Metric('z-score of the area, mean magnitude'),
  'credit/flipped': Metric('tokens whose sign changed', 'share'),
  'credit/texts': Metric('partial texts', 'texts'),
  'credit/verdicts': Metric('partial texts that were judged', 'texts'),
  'consensus/agreement': Metric('score of a candidate, other views', 'nats'),
  'consensus/own': Metric('score of a candidate, own view', 'nats'),
  'consensus/correlation': Metric('correlation of reward and correctness'),
  'consensus/distinct': Metric('variety, distinct candidates', 'share'),
  'consensus/repeated': Metric('variety, repeated pairs of tokens', 'share'),
  'consensus/kl': Metric('KL to the base, candidates', 'nats per token'),
  'sft/loss': Metric('loss', 'nats per token'),
  'sft/grad_norm': Metric('gradient norm'),
  'sft/skipped_updates': Metric('updates that were not finite', 'updates'),
  'eval/accuracy': Metric('accuracy', 'share'),
  'eval/loss': Metric('held-out loss', 'nats per token'),
  'eval/mean_steps': Metric('denoising steps', 'steps'),
  'base/accuracy': Metric('test accuracy, base', 'share'),
  'control/accuracy': Metric('test accuracy, control', 'share'),
  'final/accuracy': Metric('test accuracy, final', 'share'),
  'base/loss': Metric('held-out loss, base', 'nats per token'),
  'final/loss': Metric('held-out loss, final', 'nats per token'),
  'time/step': Metric('time of a step', 's'),
  'time/collect': Metric('time of the rollouts', 's'),
  'time/eval': Metric('time of the evaluation', 's'),
  'time/tokens_per_second': Metric('speed', 'tokens/s'),
}

# The live line of a run shows the first few of these that it has.
LIVE = (
  'reward/correct',
  'free/correct',
  'guided/correct',
  'eval/accuracy',
  'rollout/num_steps',
  'policy/kl',
  'policy/ratio_max',
  'sft/loss',
  'eval/loss',
)

# Sections of the report.
LEARNING = (
  Chart('Reward', ('reward/mean',), 'weighted sum of its terms'),
  Chart(
    'Right answers in rollouts',
    ('reward/correct',),
    'sampled, on training prompts',
  ),
  Chart('Validation accuracy', ('eval/accuracy',), 'greedy'),
  Chart('KL to the base', ('policy/kl', 'policy/kl_guided')),
  Chart(
    'Clip fraction',
    ('policy/clip_fraction', 'policy/last_clip_fraction'),
    'first and last inner step',
  ),
  Chart(
    'Groups without a signal',
    ('group/zero_variance', 'group/failed'),
    'all completions earn the same, or none is right',
  ),
  Chart('Denoising steps', ('rollout/num_steps',), 'mean of the rollouts'),
  Chart('Tokens per step', ('rollout/tokens_per_step',)),
  Chart('Entropy', ('policy/entropy',), 'credited tokens'),
  Chart('Confidence at commitment', ('rollout/confidence',)),
  Chart('Speed', ('time/tokens_per_second',)),
  Chart('Completion length', ('rollout/length',)),
  Chart('Importance ratio', ('policy/ratio_max', 'policy/ratio_mean')),
  Chart(
    'Sampler against learner',
    (
      'policy/sampler_gap',
      'policy/sampler_gap_p99',
      'policy/sampler_gap_guided',
    ),
    'gap of log-probabilities',
  ),
  Chart('Gradient norm', ('policy/grad_norm',), 'before clipping'),
  Chart('Path credit', ('credit/auc', 'credit/push')),
)
GUIDED = (
  Chart('Reward', ('free/mean', 'guided/mean')),
  Chart('Right answers', ('free/correct', 'guided/correct')),
  Chart(
    'Gold answer in the reasoning',
    ('free/leaked_gold', 'guided/leaked_gold'),
    'a leak, which guidance must not cause',
  ),
  Chart('Completion length', ('free/length', 'guided/length')),
)
CONSENSUS = (
  Chart(
    'Agreement',
    ('consensus/agreement', 'consensus/own'),
    'mean log-probability of the tokens of candidates',
  ),
  Chart(
    'Reward and correctness',
    ('consensus/correlation',),
    'correlation within sets; gold answers are read for it alone',
  ),
  Chart(
    'Variety',
    ('consensus/distinct', 'consensus/repeated'),
    'a bland text would agree with every view',
  ),
  Chart('KL to the base', ('consensus/kl',), 'of the candidates'),
)
SUPERVISED = (
  Chart('Loss', ('sft/loss',), phase='sft'),
  Chart('Held-out loss', ('eval/loss',), phase='sft'),
  Chart('Validation accuracy', ('eval/accuracy',), 'greedy', phase='sft'),
)


def find(name: str) -> Metric:
  """The metric of a name.

  Raises:
    ValueError: it is neither in the table nor in a group of the task.
  """
  group, _, own = name.partition('/')
  if group in OPEN_GROUPS and own:
    return Metric(own)
  if metric := METRICS.get(name):
    return metric
  first = METRICS.get(f'{group}/{own.removeprefix(LAST)}')
  if first is None:
    raise ValueError(
      f'unknown metric {name!r}; add it to dllm_jax/metric_names.py'
    )
  return Metric(f'{first.title}, last inner step', first.unit)
