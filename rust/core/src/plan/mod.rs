//! What is to be done with each layer: the options of a call, tables that say it layer by layer, and
//! what holds where nobody says anything.

mod asked;
mod defaults;
pub mod importance;
mod options;
mod planner;
mod table;

pub(crate) use asked::Asked;
pub(crate) use defaults::{bound, resolve};
pub use options::Options;
pub use planner::Planner;
pub use table::{Plan, check_plan};
