//! A hostile tar becomes a file tree under one directory fd.
