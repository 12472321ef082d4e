"""Long random histories of a store, compared with a model after every step."""

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.machine import StoreMachine


def test_random_histories(thorough: bool, storm_seed: int) -> None:
    class Seeded(StoreMachine):
        """The seed is kept on the class."""

    run_state_machine_as_test(
        seed(storm_seed)(Seeded),
        settings=settings(
            max_examples=300 if thorough else 25,
            stateful_step_count=50 if thorough else 30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
