//! Each operation against a plain f64 reference, over shapes declared once as data.
//!
//! A declared case is checked in every number type, and for the properties that every operation
//! must have: strided inputs, any number of threads and any batch give the same bits. The habit is
//! that of llama.cpp's tests/test-backend-ops.cpp.

mod activation;
mod attention;
mod conv2d;
mod embedding;
mod int8;
mod linear;
mod norm;
mod support;
mod upsample;
