//! Writing past the caches.

use crate::lanes::{LINE, Lanes};

/// Copy, past the caches where `lanes` do that, and then [`fence`] must follow; lines that `to` has
/// only a part of are copied as usual.
#[inline(always)]
pub(crate) fn copy<L: Lanes>(lanes: L, from: &[u8], to: &mut [u8]) {
    if !lanes.streams() {
        return to.copy_from_slice(from);
    }
    let before = to.as_ptr().align_offset(LINE).min(to.len());
    let (head, to) = to.split_at_mut(before);
    let (from_head, from) = from.split_at(before);
    head.copy_from_slice(from_head);
    let (lines, rest) = to.as_chunks_mut::<LINE>();
    let (from_lines, from_rest) = from.as_chunks::<LINE>();
    for (line, from) in lines.iter_mut().zip(from_lines) {
        lanes.stream(from, line);
    }
    rest.copy_from_slice(from_rest);
}

/// See [`Lanes::fence`].
#[inline(always)]
pub(crate) fn fence<L: Lanes>(lanes: L) {
    if lanes.streams() {
        lanes.fence();
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::dispatch;
    use crate::lanes::Level;

    #[test]
    fn every_byte_is_copied_from_and_to_any_address() {
        let from: Vec<u8> = (0..1000u32).map(|at| (at * 7) as u8).collect();
        for level in Level::available() {
            for (start, end, at) in
                [(0, 1000, 0), (1, 900, 63), (5, 5, 1), (3, 40, 2), (9, 700, 64)]
            {
                let mut to = vec![0xaa; 1100];
                dispatch::copy(
                    level.for_output(usize::MAX),
                    &from[start..end],
                    &mut to[at..][..end - start],
                );
                assert_eq!(to[at..][..end - start], from[start..end]);
                assert!(to[..at].iter().chain(&to[at + end - start..]).all(|&byte| byte == 0xaa));
            }
        }
    }
}
