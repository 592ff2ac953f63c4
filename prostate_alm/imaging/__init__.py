"""From scanner files to volumes on one grid: headers, selection of series, voxels."""
