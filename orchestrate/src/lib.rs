//! The order of the steps: images from S3 become activated snapshots.
