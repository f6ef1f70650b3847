//! Two sequences side by side, as [`Iterator::zip`] has them.

/// The pairs of two sequences, until either ends.
///
/// `zip` divides lengths before it begins. Of 16-bit weights LLVM calls it rather than inline it, and
/// what a kernel has in vector registers goes through memory, once a group. Where it is inlined, of
/// float32, it is the faster of the two.
#[inline(always)]
pub(crate) fn together<A: IntoIterator, B: IntoIterator>(
    a: A,
    b: B,
) -> Together<A::IntoIter, B::IntoIter> {
    Together { a: a.into_iter(), b: b.into_iter() }
}

pub(crate) struct Together<A, B> {
    a: A,
    b: B,
}

impl<A: Iterator, B: Iterator> Iterator for Together<A, B> {
    type Item = (A::Item, B::Item);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        Some((self.a.next()?, self.b.next()?))
    }
}
