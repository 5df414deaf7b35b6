"""The true peak of what torch allocates on a CPU, as reported to its profiler by the allocator."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that were allocated at once while `work` ran, not counting what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [
        (event.start_ns(), number, event.nbytes()) for number, event in enumerate(events) if event.name() == "[memory]"
    ]
    now = peak = 0
    for _, _, n_bytes in sorted(changes):
        now += n_bytes
        peak = max(peak, now)
    return peak
