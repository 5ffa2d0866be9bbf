"""BERT and MPNet: how alike two texts are."""
