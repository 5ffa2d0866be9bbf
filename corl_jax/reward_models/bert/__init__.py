"""BERT and MPNet text encoders: how similar two texts are."""
