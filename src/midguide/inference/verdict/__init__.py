"""The verdict on a result: what its checks found, against what a right answer would show."""
