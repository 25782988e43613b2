// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IEscrow} from "../IEscrow.sol";

/// @title Digests and signatures
/// @notice EIP-712: what was signed, and who signed it. Knows no money and no state.
abstract contract Signatures is IEscrow {
    bytes32 private constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    bytes32 private constant PARTIES_TYPEHASH = keccak256(
        "Parties(address requester,address provider,address requesterSigner,address providerSigner,address token,address arbiter)"
    );
    bytes32 private constant MONEY_TYPEHASH = keccak256(
        "Money(uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,uint16 slashBps,uint16 victimShareBps,uint16 equivocationBps)"
    );
    bytes32 private constant TIMING_TYPEHASH = keccak256(
        "Timing(uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,uint32 claimWindow,uint32 offlineAllowance,uint32 arbiterWindow)"
    );
    bytes32 private constant TERMS_TYPEHASH = keccak256(
        "Terms(Parties parties,Money money,Timing timing,uint256 units,bytes32 job,bytes32 salt)"
        "Money(uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,uint16 slashBps,uint16 victimShareBps,uint16 equivocationBps)"
        "Parties(address requester,address provider,address requesterSigner,address providerSigner,address token,address arbiter)"
        "Timing(uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,uint32 claimWindow,uint32 offlineAllowance,uint32 arbiterWindow)"
    );
    bytes32 private constant VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 agreement,uint96 amount,bytes32 ack,bool last)");
    bytes32 private constant HEARTBEAT_TYPEHASH = keccak256(
        "Heartbeat(bytes32 agreement,uint64 sequence,uint40 at,uint32 meteredSeconds,uint48 challenge,bytes32 state)"
    );
    bytes32 private constant SETTLEMENT_TYPEHASH =
        keccak256("Settlement(bytes32 agreement,uint96 paid,uint96 slashed)");
    bytes32 private constant EXTENSION_TYPEHASH =
        keccak256("Extension(bytes32 agreement,uint96 deposit,uint32 duration)");

    uint256 private immutable CHAIN_ID;
    bytes32 private immutable DOMAIN_SEPARATOR;

    constructor() {
        CHAIN_ID = block.chainid;
        DOMAIN_SEPARATOR = _domain();
    }

    // ------------------------------------------------------------------------------------ digests

    function domainSeparator() public view returns (bytes32) {
        // A fork of the chain has another id, and there nothing signed for this one is good.
        return block.chainid == CHAIN_ID ? DOMAIN_SEPARATOR : _domain();
    }

    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (hex"0f", "gridsouk", "1", block.chainid, address(this), salt, extensions);
    }

    function agreementId(Terms calldata terms) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := terms
        }
        bytes32 parties = _hashWords(PARTIES_TYPEHASH, at, 6);
        bytes32 money = _hashWords(MONEY_TYPEHASH, at + 6 * 32, 7);
        bytes32 timing = _hashWords(TIMING_TYPEHASH, at + 13 * 32, 7);
        bytes32 typehash = TERMS_TYPEHASH;
        bytes32 hash;
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, typehash)
            mstore(add(free, 0x20), parties)
            mstore(add(free, 0x40), money)
            mstore(add(free, 0x60), timing)
            calldatacopy(add(free, 0x80), add(at, 0x280), 0x60) // units, job, salt
            hash := keccak256(free, 0xe0)
        }
        return _typed(hash);
    }

    function voucherDigest(Voucher calldata voucher) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := voucher
        }
        return _typed(_hashWords(VOUCHER_TYPEHASH, at, 4));
    }

    function heartbeatDigest(Heartbeat calldata heartbeat) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := heartbeat
        }
        return _typed(_hashWords(HEARTBEAT_TYPEHASH, at, 6));
    }

    function settlementDigest(Settlement calldata settlement) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := settlement
        }
        return _typed(_hashWords(SETTLEMENT_TYPEHASH, at, 3));
    }

    function extensionDigest(Extension calldata extension) public view returns (bytes32) {
        uint256 at;
        assembly ("memory-safe") {
            at := extension
        }
        return _typed(_hashWords(EXTENSION_TYPEHASH, at, 3));
    }

    /// @dev Our own lines instead of OpenZeppelin's EIP712: with two literals for a name and a
    /// version, 1 kB less code.
    function _domain() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, keccak256("gridsouk"), keccak256("1"), block.chainid, address(this)
            )
        );
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    /// @dev hashStruct of EIP-712 for a struct of `words` value types that lies at `at` in calldata:
    /// the ABI encoding of such a struct is its encodeData. Padding that is not zero gives a digest
    /// nobody signed.
    function _hashWords(bytes32 typehash, uint256 at, uint256 words)
        private
        pure
        returns (bytes32 hash)
    {
        assembly ("memory-safe") {
            let free := mload(0x40)
            let size := shl(5, words)
            mstore(free, typehash)
            calldatacopy(add(free, 0x20), at, size)
            hash := keccak256(free, add(0x20, size))
        }
    }

    // --------------------------------------------------------------------------------- who signed

    /// @dev Zero if the signature is no good, which no party can be.
    function _signer(bytes32 digest, bytes calldata signature) private view returns (address by) {
        if (signature.length == 0) return msg.sender;
        (by,,) = ECDSA.tryRecoverCalldata(digest, signature);
    }

    /// @dev For vouchers and heartbeats: the hot key, or the wallet as a plain account.
    function _signedByHot(address hot, address wallet, bytes32 digest, bytes calldata signature)
        internal
        view
    {
        address by = _signer(digest, signature);
        if (by != hot && by != wallet) revert Escrow_BadSignature(hot);
    }

    /// @dev For what locks or divides money: the wallet (true) or its hot key (false).
    function _signedByEither(address wallet, address hot, bytes32 digest, bytes calldata signature)
        internal
        view
        returns (bool byWallet)
    {
        address by = _signer(digest, signature);
        if (by == wallet || _signedByContract(wallet, digest, signature)) return true;
        if (by != hot) revert Escrow_BadSignature(wallet);
    }

    function _signedByContract(address wallet, bytes32 digest, bytes calldata signature)
        private
        view
        returns (bool)
    {
        return signature.length != 0 && wallet.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNowCalldata(wallet, digest, signature);
    }

    function _names(bytes32 given, bytes32 id) internal pure {
        if (given != id) revert Escrow_WrongAgreement(id, given);
    }
}
