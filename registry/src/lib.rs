//! What is durable: layers, images and activations, in one SQLite file.
