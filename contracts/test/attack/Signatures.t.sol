// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {MoodyWallet, Wallet} from "../Mocks.sol";

/// @notice Signatures in other forms, from other places and of other wallets.
contract SignaturesTest is Base {
    uint256 internal constant N =
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function refuses(IEscrowTypes.Terms memory terms, bytes memory signature) internal {
        (IEscrowTypes.Voucher memory voucher,) = voucherOf(escrow.agreementId(terms), 1e5, false);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, requesterHot)
        );
        escrow.claim(terms, voucher, signature);
    }

    /// @dev EIP-2098 packs v into s: 64 bytes for the same signature. One form only.
    function test_attack_CompactSignatureIsRefused() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        (IEscrowTypes.Voucher memory voucher, bytes memory good) = voucherOf(id, 1e5, false);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(requesterHotKey, escrow.voucherDigest(voucher));
        refuses(terms, abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255))));
        escrow.claim(terms, voucher, good);
    }

    function test_attack_EveryOtherVIsRefused() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        (IEscrowTypes.Voucher memory voucher,) = voucherOf(id, 1e5, false);
        (uint8 right, bytes32 r, bytes32 s) =
            vm.sign(requesterHotKey, escrow.voucherDigest(voucher));
        for (uint256 v; v < 256; ++v) {
            if (v != right) refuses(terms, abi.encodePacked(r, s, uint8(v)));
        }
    }

    function test_attack_HighSIsRefusedForEveryParty() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(requesterKey, id);
        bytes memory twin = abi.encodePacked(r, bytes32(N - uint256(s)), v == 27 ? 28 : 27);
        bytes memory b = sign(providerKey, id);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, requester)
        );
        escrow.open(terms, twin, b);
    }

    function testFuzz_attack_RandomBytesAreNobodysSignature(bytes calldata noise) public {
        vm.assume(noise.length != 0);
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 100);
        refuses(terms, noise);
    }

    /// @dev Voucher, heartbeat, settlement and extension of a twin contract, and of another chain.
    function test_attack_NothingSignedForATwinIsGoodHere() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 200);
        for (uint256 i; i < 2; ++i) {
            Escrow twin = i == 0 ? new Escrow(limits()) : escrow;
            if (i == 1) vm.chainId(block.chainid + 1);
            IEscrowTypes.Voucher memory v = IEscrowTypes.Voucher(id, 1e5, 0, false);
            bytes memory a = sign(requesterHotKey, twin.voucherDigest(v));
            IEscrowTypes.Heartbeat memory h =
                IEscrowTypes.Heartbeat(id, 1, uint40(START + 100), 100, 0, 0);
            bytes memory b = sign(providerHotKey, twin.heartbeatDigest(h));
            IEscrowTypes.Settlement memory s = IEscrowTypes.Settlement(id, 1e5, 0);
            bytes memory c = sign(requesterKey, twin.settlementDigest(s));
            bytes memory d = sign(providerKey, twin.settlementDigest(s));
            IEscrowTypes.Extension memory e = IEscrowTypes.Extension(id, 1e6, 0);
            bytes memory f = sign(requesterKey, twin.extensionDigest(e));
            if (i == 1) vm.chainId(block.chainid - 1);
            vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
            escrow.claim(terms, v, a);
            vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
            escrow.claimOffline(terms, h, b);
            vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
            escrow.closeSigned(terms, s, c, d);
            vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
            escrow.extend(terms, e, f, NONE);
        }
    }

    /// @dev Dirty padding gives terms an id of their own, which nobody signed.
    function test_attack_DirtyTermsAreOtherTerms() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        bytes memory data = abi.encodeCall(escrow.finalize, (terms));
        vm.warp(START + 1 days);
        for (uint256 word; word < 20; ++word) {
            bytes memory dirty = abi.encodeCall(escrow.finalize, (terms));
            dirty[4 + 32 * word] = 0x01;
            (bool done, bytes memory reason) = address(escrow).call(dirty);
            assertFalse(done);
            assertEq(bytes4(reason), IEscrowEvents.Escrow_WrongStatus.selector);
        }
        (bool closed,) = address(escrow).call(data);
        assertTrue(closed);
    }

    // ------------------------------------------------------------------------- contract wallets

    function moody() internal returns (MoodyWallet wallet, IEscrowTypes.Terms memory terms) {
        wallet = new MoodyWallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        terms = makeTerms();
        terms.parties.requester = address(wallet);
    }

    function test_attack_WalletThatAnswersWithGarbageHasNotSigned() public {
        (MoodyWallet wallet, IEscrowTypes.Terms memory terms) = moody();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(0xC1, id);
        bytes memory b = sign(providerKey, id);
        for (uint256 mood = 1; mood < 3; ++mood) {
            wallet.set(MoodyWallet.Mood(mood), address(0), "");
            vm.expectRevert(
                abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, wallet)
            );
            escrow.open(terms, a, b);
        }
        wallet.set(MoodyWallet.Mood.Burns, address(0), "");
        vm.expectRevert();
        escrow.open{gas: 3e6}(terms, a, b);
        wallet.set(MoodyWallet.Mood.Good, address(0), "");
        escrow.open(terms, a, b);
    }

    /// @dev ERC-1271 wallets sign settlements and extensions too, and slash only as themselves.
    function test_attack_ContractWalletSignsAllThatAWalletMay() public {
        Wallet wallet = new Wallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.requester = address(wallet);
        bytes32 id = escrow.agreementId(terms);
        escrow.open(terms, sign(0xC1, id), sign(providerKey, id));
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(id, 1e6, 0);
        bytes memory byOther = sign(0xC2, escrow.extensionDigest(extension));
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.extend(terms, extension, byOther, NONE);
        escrow.extend(terms, extension, sign(0xC1, escrow.extensionDigest(extension)), NONE);
        IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(id, 11e6, 1e6);
        bytes32 digest = escrow.settlementDigest(settlement);
        escrow.closeSigned(terms, settlement, sign(0xC1, digest), sign(providerKey, digest));
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertEq(free(address(wallet)), 50e6 - 11e6 + 0.6e6);
    }

    /// @dev A wallet's owner may change after it signed: what counts is the owner at the open.
    /// Vouchers come from the signer of the terms, whom no change of owner touches.
    function test_attack_WalletIsAskedAtTheOpenOnly() public {
        (MoodyWallet wallet, IEscrowTypes.Terms memory terms) = moody();
        bytes32 id = escrow.agreementId(terms);
        escrow.open(terms, sign(0xC1, id), sign(providerKey, id));
        wallet.set(MoodyWallet.Mood.Reverts, address(0), "");
        vm.warp(START + 1000);
        settle(terms, 2e6, true);
        assertStatus(id, IEscrowTypes.Status.Closed);
    }
}
