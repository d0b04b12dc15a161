"""Memory and peak speed of accelerators, from their data sheets.

Peaks are for dense bfloat16 products with float32 sums. A gigabyte is 10^9
bytes, as in the names of the devices.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
  """One device.

  Attributes:
    memory: in bytes.
    peak: bfloat16 operations per second.
    kinds: prefixes of JAX's `device_kind`, in lower case.
    topology: (number of devices, name of that slice for the TPU compiler).
  """

  memory: float
  peak: float
  kinds: tuple[str, ...]
  topology: tuple[tuple[int, str], ...] = ()


_GB, _TF = 1e9, 1e12
_FLAT = ((4, '2x2'), (8, '2x4'), (16, '4x4'), (32, '4x8'), (64, '8x8'))
_FLAT += ((128, '8x16'), (256, '16x16'))
_CUBE = ((4, '2x2x1'), (8, '2x2x2'), (16, '2x2x4'), (32, '2x4x4'))
_CUBE += ((64, '4x4x4'), (128, '4x4x8'), (256, '4x8x8'))

ACCELERATORS = {
  'tpu_v5e': Accelerator(
    memory=16 * _GB,
    peak=197 * _TF,
    kinds=('tpu v5 lite', 'tpu v5e'),
    topology=tuple((n, f'v5e:{shape}') for n, shape in _FLAT),
  ),
  'tpu_v5p': Accelerator(
    memory=95 * _GB,
    peak=459 * _TF,
    kinds=('tpu v5p', 'tpu v5'),
    topology=tuple((n, f'v5p:{shape}') for n, shape in _CUBE),
  ),
  'tpu_v6e': Accelerator(
    memory=32 * _GB,
    peak=918 * _TF,
    kinds=('tpu v6 lite', 'tpu v6e'),
    topology=tuple((n, f'v6e:{shape}') for n, shape in _FLAT),
  ),
  'a100_40': Accelerator(
    memory=40 * _GB,
    peak=312 * _TF,
    kinds=('nvidia a100-sxm4-40', 'nvidia a100-pcie-40'),
  ),
  'a100': Accelerator(memory=80 * _GB, peak=312 * _TF, kinds=('nvidia a100',)),
  'h100': Accelerator(memory=80 * _GB, peak=989 * _TF, kinds=('nvidia h100',)),
  'h200': Accelerator(memory=141 * _GB, peak=989 * _TF, kinds=('nvidia h200',)),
}


def peak_of(device_kind: str) -> float | None:
  """Peak bfloat16 operations per second; None for an unknown device."""
  for accelerator in ACCELERATORS.values():
    if device_kind.lower().startswith(accelerator.kinds):
      return accelerator.peak
  return None
