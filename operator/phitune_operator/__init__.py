"""The operator of Phitune: turns a FineTuneJob into a claim, a prepare Job and gangs of training pods."""
