"""Boot, write, snapshot, restore, judge: plain Python that knows neither Avocado nor pytest."""
