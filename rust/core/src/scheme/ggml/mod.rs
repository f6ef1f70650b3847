//! ggml's formats of blocks, bit for bit: what GGUF files hold.
//!
//! Source of all layouts: the structs `block_*` in
//! <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>, and what is done with
//! them in `ggml-quants.c` beside it. Decoding is `dequantize_row_*`, in float32. Encoding rounds to
//! the extremes of each block; of the small blocks it is `quantize_row_*_ref`.

mod bits;
mod blocked;
mod iq4_nl;
mod iq4_xs;
mod levels;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod small;

pub(super) use iq4_nl::IQ4_NL;
pub(super) use iq4_xs::IQ4_XS;
pub(super) use q2_k::Q2_K;
pub(super) use q3_k::Q3_K;
pub(super) use q4_0::Q4_0;
pub(super) use q4_1::Q4_1;
pub(super) use q4_k::Q4_K;
pub(super) use q5_0::Q5_0;
pub(super) use q5_1::Q5_1;
pub(super) use q5_k::Q5_K;
pub(super) use q6_k::Q6_K;
pub(super) use q8_0::Q8_0;
