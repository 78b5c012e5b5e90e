"""The same model under stock Flower: a ServerApp that runs Flower's FedProx."""

import time

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedProx
from model import FEATURES, build_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds on every connected node."""
    nodes = len(list(grid.get_node_ids()))
    strategy = FedProx(
        min_available_nodes=nodes,
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes,
        proximal_mu=float(context.run_config["proximal-mu"]),
    )
    start = ArrayRecord(build_model(FEATURES).get_weights())
    rounds = int(context.run_config["num-server-rounds"])
    strategy.start(grid, start, num_rounds=rounds, evaluate_fn=_round_ended)


def _round_ended(number: int, _: ArrayRecord) -> None:
    """Print when a round ended; Flower calls this before the first round (number 0) and after each."""
    print(f"round {number} ended at {time.time():.3f}", flush=True)
