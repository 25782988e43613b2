"""The front desk: what may be asked of a running node, a desk for each subject."""
