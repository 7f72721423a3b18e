"""The steps of the tab, one module each: `build` makes a step's components, `connect` ties them to the others'."""
