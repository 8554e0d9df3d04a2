"""`make certify`: the isolation certificate."""
