//! Block volumes in one device-mapper thin pool, by raw ioctls.
