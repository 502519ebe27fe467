//! What a message to the kernel's netfilter is made of: a netlink header, the family, attributes in attributes.
//! Source: linux/netfilter/nfnetlink.h; netlink(7).

/// A request. `kind` is the subsystem and the message within it.
pub fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    const REQUEST: u16 = 1;
    let mut message = (20 + attributes.len() as u32).to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), (REQUEST | flags).to_ne_bytes()].concat());
    message.extend([1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat()); // sequence, port
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Length, type, value, padded to four bytes.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | libc::NLA_F_NESTED as u16, attributes)
}

/// The attributes that some bytes hold, up to the first that makes no sense.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !(libc::NLA_F_NESTED as u16);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A message of an answer: its type and flags, and what follows the netlink header.
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub body: &'a [u8],
}

/// The messages of an answer.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (kind, flags) = (number(4)?, number(6)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, body })
    })
}

/// The errno in the body of an answer of type `NLMSG_ERROR`; 0 is an acknowledgement.
pub fn errno(body: &[u8]) -> i32 {
    body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, |bytes| -i32::from_ne_bytes(bytes))
}
