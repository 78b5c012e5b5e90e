"""How a round's updates become the next global model: one strategy a run, by the name in its `strategy`."""

from __future__ import annotations

from coordinator.strategies.base import Fold, ServerStrategy
from coordinator.strategies.fairness import QFedAvg
from coordinator.strategies.mean import Mean
from coordinator.strategies.robust import Krum, Median, TrimmedMean
from coordinator.strategies.scaffold import Scaffold
from coordinator.strategies.server import Adagrad, Adam, Momentum, Yogi
from federation.run import Strategy

__all__ = ["Fold", "ServerStrategy", "strategy_of"]


def strategy_of(strategy: Strategy) -> ServerStrategy:
    """The server's side of a run's strategy, at its beginning."""
    option = strategy.option
    match strategy.name:
        case "fedprox" | "fedavg":
            return Mean()
        case "scaffold":
            return Scaffold()
        case "fedavgm":
            return Momentum(option("server_learning_rate"), option("momentum"))
        case "fedadam":
            return Adam(option("server_learning_rate"), option("beta_1"), option("beta_2"), option("tau"))
        case "fedyogi":
            return Yogi(option("server_learning_rate"), option("beta_1"), option("beta_2"), option("tau"))
        case "fedadagrad":
            return Adagrad(option("server_learning_rate"), option("beta_1"), option("tau"))
        case "qfedavg":
            return QFedAvg(option("q"), option("client_learning_rate"))
        case "trimmed_mean":
            return TrimmedMean(option("trim"))
        case "median":
            return Median()
        case "krum":
            return Krum(int(option("byzantine")))
