"""The same model under stock Flower: a ClientApp that trains with Keras and adds the proximal term.

Without differential privacy, which is not in the model but in how a silo trains.
"""

import keras
import pandas as pd
import tensorflow as tf
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from model import build_model

app = ClientApp()


class Proximal(keras.Model):
    """Adds the gradient of (mu/2) * ||w - w_t||^2 to that of a model's loss."""

    def __init__(self, inner: keras.Model, mu: float) -> None:
        super().__init__()
        self.inner = inner
        self.mu = mu
        self.anchors = [tf.constant(variable.numpy()) for variable in inner.trainable_variables]
        self.compile(optimizer=inner.optimizer, loss=inner.loss)

    def call(self, inputs, training=False):
        """Predict as the inner model does."""
        return self.inner(inputs, training=training)

    def train_step(self, data):
        """One step of stochastic gradient descent."""
        rows, labels = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=labels, y_pred=self.inner(rows, training=True))
        gradients = tape.gradient(loss, self.inner.trainable_variables)
        pairs = zip(gradients, self.inner.trainable_variables, self.anchors, strict=True)
        self.optimizer.apply([g + self.mu * (w - w_t) for g, w, w_t in pairs], self.inner.trainable_variables)
        return {"loss": loss}


def _data(context: Context, *, training: bool):
    """Read this node's table, a CSV file with a header: the model's features in order, then the label."""
    frame = pd.read_csv(str(context.node_config["data-path"])).dropna()
    validation = frame.sample(frac=0.3, random_state=7)
    part = frame.drop(validation.index) if training else validation
    rows, labels = part.iloc[:, :-1].to_numpy("float32"), part.iloc[:, -1:].to_numpy("float32")
    return rows, (labels > 0).astype("float32")


def _model(message: Message, features: int) -> keras.Model:
    model = build_model(features)
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's training rows."""
    rows, labels = _data(context, training=True)
    model = _model(message, rows.shape[1])
    proximal = Proximal(model, float(message.content["config"]["proximal-mu"]))
    epochs, batch = int(context.run_config["local-epochs"]), int(context.run_config["batch-size"])
    proximal.fit(rows, labels, epochs=epochs, batch_size=batch, verbose=0)
    content = {
        "arrays": ArrayRecord(model.get_weights()),
        "metrics": MetricRecord({"num-examples": len(rows)}),
    }
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on this node's validation rows."""
    rows, labels = _data(context, training=False)
    loss = _model(message, rows.shape[1]).evaluate(rows, labels, verbose=0)
    metrics = MetricRecord({"num-examples": len(rows), "loss": float(loss)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
