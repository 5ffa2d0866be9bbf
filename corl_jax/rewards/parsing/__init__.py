"""What rewards read out of texts: answers, numbers, boxes, classes, formulas."""
