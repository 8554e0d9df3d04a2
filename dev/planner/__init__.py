"""From the tables of a contract to the revision that makes them: pure, but for `catalogue`."""
