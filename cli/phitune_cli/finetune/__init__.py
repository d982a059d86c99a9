"""The command `kubectl finetune`: a user's way to FineTuneJobs and their volumes, with the user's rights."""
