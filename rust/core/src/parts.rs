//! Parts of layers: a layer that is too large for one row of a file comes as several rows.
//!
//! A layer is cut on the rows of its tensor, and never inside one of several matrices beside whole
//! ones: a part is of one matrix, or of several whole ones. Where one row alone is too large, it is
//! cut at multiples of a power of two, so that the usual groups end where parts do.

mod cut;
mod split;
pub mod stacks;

pub use cut::{Part, cut, schema};
pub(crate) use cut::{cut_between, cut_rows, part_columns, part_fields};
pub use split::split;
