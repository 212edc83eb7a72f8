"""One short script a stage, for `ray job submit`; the same flags as `readqg STAGE`."""
