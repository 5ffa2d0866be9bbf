"""The prepared set: records that were all read and checked once, as array records of TFDS."""
