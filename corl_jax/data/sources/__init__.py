"""Where records come from: one address opens data sets of many layouts, all as the same records."""
