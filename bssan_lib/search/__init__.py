"""Search in large galleries: global vectors select a shortlist, and the model scores it exactly."""
