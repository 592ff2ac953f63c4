"""The paper's experiments: plans as data, the search over candidates, tables beside the paper's."""
