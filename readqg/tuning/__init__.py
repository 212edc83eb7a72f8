"""What a search for hyper-parameters tries and how a trial is judged. Knows nothing of Ray; no test judgment is ever opened."""
