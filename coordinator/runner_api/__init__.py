"""What runner machines call: metadata and callbacks, in GARM's form, and the scripts they are started with."""
